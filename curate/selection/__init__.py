"""Which questions stay: duplicates, evaluation questions, quality, difficulty, domains, and the last thousand."""
