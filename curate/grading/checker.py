"""Functions of one's own that say whether an answer is right, by their names: `module.function`."""

import importlib
from collections.abc import Callable
from typing import Any

from engine.errors import InputError, first_line, shown

PREFIX = "python:"
"""What such a name follows where kinds of answers are written."""

Checker = Callable[[str, str | None, str], bool | None]
"""(the answer part of a response, the reference or None, the question) -> right, wrong, or None: it cannot be told."""


def checker(name: str) -> Checker:
    """The function that `module.function` names; importing it runs the module.

    Raises InputError where there is none, or the module cannot be imported.
    """
    module, _, function = name.rpartition(".")
    where = f"{PREFIX}{shown(name)[1:-1]}"
    if not module or not function:
        raise InputError(f"{where} names no function; write {PREFIX}MODULE.FUNCTION")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:  # whatever its module does while it is imported
        raise InputError(
            f"{where} cannot be imported ({type(error).__name__}: {first_line(error)}); the module must be in this "
            "directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise InputError(f"{where}: module {module} has no function {function}; name a function of a module")
    return found


def verdict(name: str, answer: str, reference: str | None, question: str) -> bool | None:
    """What the function says, numpy's and torch's booleans too. Raises TypeError where it says neither True, False nor
    None."""
    said: Any = checker(name)(answer, reference, question)
    said = said.item() if hasattr(said, "item") else said
    if said is not None and not isinstance(said, bool):
        raise TypeError(f"{name} returned {shown(said)}; it must return True, False or None")
    return said
