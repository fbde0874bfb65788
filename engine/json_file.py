"""JSON from outside: text made into values, and the JSON files of a checkpoint."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InputError, first_line
from engine.input_file import read_regular

_MOST_BYTES = 1 << 26
"""Of a checkpoint's JSON file. The largest tokenizers have half of it; values take up to 20 times their text."""


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """The value of a JSON text; bytes are UTF-8, with a byte order mark or without. `hooks` are those of json.loads.
    Raises InputError saying, in one line, why there is none."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text, **hooks)
    except (ValueError, RecursionError) as error:
        digits = "int_max_str_digits" in str(error)  # Python's advice is for who writes programs
        raise InputError("a whole number has more than 4,300 digits" if digits else first_line(error)) from None


def read_object(path: Path) -> Mapping[str, Any]:
    """The object that a JSON file holds. Raises InputError naming the file where it is missing, no regular file, or
    holds none."""
    try:
        text = read_regular(path, _MOST_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give a checkpoint directory in the Hugging Face layout") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    try:
        value = parse_json(text)
    except InputError as error:
        raise InputError(f"{path} is not JSON: {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def read_object_if_any(path: Path) -> Mapping[str, Any]:
    """As `read_object`; empty where nothing has this name, not where what has it is no file."""
    return read_object(path) if os.path.lexists(path) else {}
