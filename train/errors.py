"""The errors that a person can cause and mend."""

from engine.errors import InputError


class TrainingError(InputError):
    """Bad configuration, data, checkpoint or machine: one line that names the thing, its value and the way out."""


class RunFailed(TrainingError):
    """A run that could be used as given and failed on its way: a full disk, a loss that is not finite."""
