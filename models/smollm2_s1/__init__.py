"""A real s1 in small: SmolLM2-135M-Instruct taught s1's format on GSM8K's own solutions. See README.md."""
