"""Every target of the fuzzing."""

from tests.fuzz import callers, models, programs, runs

TARGETS = (*models.TARGETS, *callers.TARGETS, *runs.TARGETS, *programs.TARGETS)
