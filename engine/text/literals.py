"""One regular expression for many texts, at a cost that does not grow with their number."""

import re
from collections.abc import Iterable
from itertools import groupby

from engine.errors import InputError


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of `texts` that stands at a place; where there are none, nothing.

    Texts that begin alike share a branch, so that a place is looked at once and not once for each of thousands.
    Raises InputError where they are one another's beginnings hundreds deep.
    """
    try:
        return re.compile(_branches(sorted({*texts} - {""})) or "(?!)")
    except (RecursionError, OverflowError) as error:
        raise InputError(f"the added tokens begin with one another too deeply: {error}") from None


def _branches(texts: list[str]) -> str:
    """A pattern for sorted texts."""
    branches = []
    for _, group in groupby(texts, key=lambda text: text[0]):
        alike = list(group)
        pairs = enumerate(zip(alike[0], alike[-1], strict=False))
        shortest = min(len(alike[0]), len(alike[-1]))
        head = alike[0][: next((i for i, (a, b) in pairs if a != b), shortest)]
        tails = _branches([text[len(head) :] for text in alike if len(text) > len(head)])
        branches.append(re.escape(head) + (f"(?:{tails})" + "?" * (alike[0] == head) if tails else ""))
    return "|".join(branches)
