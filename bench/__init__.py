"""Benchmarks: speed against written-down limits and peers on the same machine, accuracy against thinking tokens."""
