"""Models: s1-nano, which is part of this repository, and real ones that are fetched."""
