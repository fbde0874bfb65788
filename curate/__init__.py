"""Curation: questions of many sources, graded, sorted and sampled down to 1,000 traces."""
