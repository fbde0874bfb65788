"""Every target of the fuzzing."""

from tests.fuzz import callers, gguf_file, model_files, programs, rewards, runs, server_requests

TARGETS = (
    *model_files.TARGETS,
    *gguf_file.TARGETS,
    *rewards.TARGETS,
    *callers.TARGETS,
    *runs.TARGETS,
    *programs.TARGETS,
    *server_requests.TARGETS,
)
