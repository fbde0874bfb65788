"""The one error of this package, and what is wrong in its environment."""

FAULTS: list[str] = []
"""Found at import, one line each, and set aside as if the variable were not set: programs refuse to run with them."""


class KernelError(ValueError):
    """A shape, dtype or setting that an operator does not take; the message names it and the way out."""
