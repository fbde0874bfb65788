"""Searches over thoughts: branches on the engine, and the loops that step, score, prune and vote."""
