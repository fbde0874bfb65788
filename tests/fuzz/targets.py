"""Every target of the fuzzing."""

from tests.fuzz import callers, gguf_file, model_files, programs, runs

TARGETS = (*model_files.TARGETS, *gguf_file.TARGETS, *callers.TARGETS, *runs.TARGETS, *programs.TARGETS)
