"""A row of a file of questions: the text in its columns, and what is wrong with it."""

from collections.abc import Mapping
from typing import Any


class RowError(ValueError):
    """A row that does not hold what its columns promise."""


def text(row: Mapping[str, Any], column: str) -> str:
    """The string in `column`, stripped. Raises RowError where it is none or empty."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"column {column!r} is {str(value)[:60]!r}; a text is needed")
    return value.strip()


def optional_text(row: Mapping[str, Any], column: str) -> str | None:
    """The string in `column`, stripped; None where it is empty, null or missing; other values as str."""
    value = row.get(column)
    return None if value is None else str(value).strip() or None
