"""The one error that a person can cause and mend."""

from engine.errors import InputError


class TrainingError(InputError):
    """Bad configuration, data, checkpoint or machine: one line that names the thing, its value and the way out."""
