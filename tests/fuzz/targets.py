"""Every target of the fuzzing."""

from tests.fuzz import callers, gguf_file, models, programs, runs

TARGETS = (*models.TARGETS, *gguf_file.TARGETS, *callers.TARGETS, *runs.TARGETS, *programs.TARGETS)
