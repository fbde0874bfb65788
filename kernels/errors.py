"""The one error of this package."""

from __future__ import annotations


class KernelError(ValueError):
    """A shape, dtype or setting that an operator does not take; the message names it and the way out."""
