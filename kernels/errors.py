"""The one error of this package."""


class KernelError(ValueError):
    """A shape, dtype or setting that an operator does not take; the message names it and the way out."""
