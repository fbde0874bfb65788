"""The errors a caller can meet. Each message is one line: the thing, its value, the way out."""

from typing import Any


class InputError(ValueError):
    """A request, a configuration or a checkpoint that cannot be used as given."""


def shown(value: Any) -> str:
    """`value` as a message names it: what a caller gave may be of any size."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class EngineDead(RuntimeError):
    """The engine loop has ended (a rank died, the device failed, or `close` was called) and cannot take the request."""
