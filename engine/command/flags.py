"""Flags of every program, read into a dataclass: what cannot be read is one line, as for all bad input."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

import tyro
import tyro._errors

from engine.errors import InputError, refuse, shown

T = TypeVar("T")


def read_flags(
    options: type[T], argv: Sequence[str] | None, program: str, description: str | None = None, once: bool = False
) -> T:
    """`argv` (None: the process's own) as `options`. Raises InputError for flags that are unknown, malformed or, with
    `once`, given twice; --help ends with exit code 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    if once:
        refuse(
            *(
                (n > 1, f"--{name} is given {n} times; give it once, with all its values behind it")
                for name, n in given_flags(words).items()
            )
        )
    with tyro._errors.on_parse_error(partial(_refuse, options)):
        return tyro.cli(options, args=words, prog=program, description=description)


def given_flags(argv: Sequence[str]) -> Counter[str]:
    """How often each flag is on a command line, by its name with hyphens and without `no-`."""
    flags = (word[2:].partition("=")[0].replace("_", "-") for word in argv if word.startswith("--"))
    return Counter(flag.removeprefix("no-") for flag in flags)


def _refuse(options: Any, event: tyro._errors.ParseErrorEvent) -> None:
    """One line instead of tyro's box of several. The hook is private: tyro is pinned."""
    argument = getattr(event, "argument", None)
    flag = "" if argument is None else argument.lowered.name_or_flags[-1]
    match event:
        case tyro._errors.UnrecognizedArgs(tokens=tokens):
            known = ["--" + f.name.replace("_", "-") for f in fields(options)]
            meant = [near for token in tokens for near in get_close_matches(token, known, 1)]
            hint = f" (did you mean {' or '.join(meant)}?)" if meant else ""
            raise InputError(f"unrecognized options: {', '.join(tokens)}{hint}")
        case tyro._errors.InvalidChoice(value=value, choices=choices):
            raise InputError(f"{flag} is {shown(value)}; give one of {', '.join(choices)}")
        case tyro._errors.BadValue():
            raise InputError(f"{flag} needs a value")
        case tyro._errors.InstantiationFailure(message=message):
            raise InputError(": ".join(filter(None, (flag, " ".join(message.split())))))
        case tyro._errors.MissingArgs(missing_arguments=missing):
            names = (each.arg.lowered.name_or_flags for each in missing)
            raise InputError(f"missing: {', '.join(name[-1] if name else '?' for name in names)}; --help has the rest")
