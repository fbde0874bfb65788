"""Accuracy against thinking tokens: grid, tasks, methods, log, grades, statistics, figures. See docs/evaluation.md."""
