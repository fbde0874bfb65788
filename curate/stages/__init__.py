"""The stages of a run: what each reads, computes and writes, and the report."""
