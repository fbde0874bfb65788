"""The errors a caller can meet. Each message is one line: the thing, its value, the way out."""

import math
import sys
from contextlib import suppress
from itertools import islice
from reprlib import Repr
from typing import Any

_VALUE, _LIBRARY, _MESSAGE = 80, 300, 1000
"""Most characters of a value, of what a library says, and of a whole message."""


class _Brief(Repr):
    """`repr` of what may be of any size, at a cost that has a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 3, 30, 30
        self.maxtuple = self.maxset = self.maxfrozenset = self.maxlist
        self.maxstring = self.maxother = 4 * _VALUE  # cut in the middle, which is beyond what is shown

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write numbers of more than 4,300 digits."""
        digits = int(value.bit_length() * math.log10(2)) + 1
        return repr(value) if digits <= _VALUE else f"<a whole number of about {digits:,} digits>"

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        """In its own order: sorting millions of keys takes seconds."""
        if level <= 0:
            return "{...}" if value else "{}"
        items = (
            f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}"
            for key, item in islice(value.items(), self.maxdict)
        )
        return "{" + ", ".join(items) + ("}" if len(value) <= self.maxdict else ", ...}")

    def repr_bytes(self, value: bytes, level: int) -> str:
        """The beginning alone."""
        return repr(value[: self.maxother])


_brief = _Brief()


def plain(text: str, most: int = _MESSAGE) -> str:
    """`text` as one line of at most `most` characters that a terminal, a log and a page can show: escapes in place of
    controls, line ends, marks of direction and lone surrogates, and "..." in place of the middle of a long one."""
    if len(text) > most:
        text = f"{text[: most * 3 // 4]}...{text[len(text) - most // 4 + 3 :]}"
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain(escaped, most)


def shown(value: Any) -> str:
    """`value` as a message names it: what a caller gave may be of any size."""
    text = _brief.repr(value)
    return plain(text if len(text) <= _VALUE else text[: _VALUE - 3] + "...")


def first_line(error: BaseException) -> str:
    """What `error` says, in one line of bounded length; its type where it says nothing."""
    return plain(next(iter(str(error).strip().splitlines()), type(error).__name__), _LIBRARY)


class _OneLine(Exception):
    """Whatever went into a message, names of files, what libraries and endpoints say, it is `plain`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(plain(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(_OneLine, ValueError):
    """A request, a configuration or a checkpoint that cannot be used as given."""


class EngineDead(_OneLine, RuntimeError):
    """The engine loop has ended (a rank died, the device failed, or `close` was called) and cannot take the request."""


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


def tell(message: object, program: str = "error") -> None:
    """One `plain` line on standard error, if there is one: how every program says why it ends."""
    if sys.stderr is not None:
        with suppress(OSError):  # a full disk: what is told about goes on
            print(f"{program}: {plain(str(message))}", file=sys.stderr, flush=True)
