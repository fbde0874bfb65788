"""The errors a caller can meet. Each message is one line: the thing, its value, the way out."""

import math
from typing import Any


class InputError(ValueError):
    """A request, a configuration or a checkpoint that cannot be used as given."""


def shown(value: Any) -> str:
    """`value` as a message names it: what a caller gave may be of any size."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def first_line(error: BaseException) -> str:
    """What `error` says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def refuse(*faults: tuple[object, str]) -> None:
    """Raise InputError with the first message whose condition holds. All messages are made, whatever holds."""
    for holds, message in faults:
        if holds:
            raise InputError(message)


def is_whole(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether `value` is a whole number in these bounds, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float, most: float) -> bool:
    """Whether `value` is a number in these bounds: no bool, no NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


class EngineDead(RuntimeError):
    """The engine loop has ended (a rank died, the device failed, or `close` was called) and cannot take the request."""
