"""What every reader of foreign input promises: a result, or an error whose message is one short, harmless line."""

import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any

from engine.errors import InputError

LONGEST, SECONDS, BYTES = 1_000, 10.0, 2 << 30
"""Characters of a message; processor time and memory of one input."""
_ODD = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that could move a terminal's cursor, break a line, or not be written at all."""


class Broken(AssertionError):
    """The promise is not kept."""


def check_line(text: str) -> None:
    """Raises Broken unless `text` may be shown as an error."""
    odd = next((char for char in text if unicodedata.category(char) in _ODD), None)
    if odd is not None or len(text) > LONGEST or not text.strip():
        raise Broken(f"message of {len(text)} characters, odd one {odd!r}: {text[:200]!r}")


def promise(action: Callable[..., Any], *arguments: Any, also: tuple[type[Exception], ...] = ()) -> Any:
    """What `action` returns; None where it refuses (InputError, or one of `also`) as it should. Whatever else it raises
    is a finding, and so is one that takes too long."""
    started, depth = time.process_time(), sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)  # as in a program; hypothesis raises it
    try:
        return action(*arguments)
    except (InputError, *also) as error:
        check_line(str(error))
        return None
    finally:
        sys.setrecursionlimit(depth)
        spent = time.process_time() - started
        if spent > SECONDS:
            raise Broken(f"took {spent:.1f} s of processor time")
