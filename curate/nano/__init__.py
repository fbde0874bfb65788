"""The tokenizer and the corpus of s1-nano."""
