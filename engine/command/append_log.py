"""Files of JSON objects, one a line, that grow by whole lines and outlive whatever ends their writer.

A line is written in one go and handed to the operating system at once, so a killed process loses nothing that it had
written; the disk is asked to keep it every few seconds and at the end. What a kill can leave is a torn last line.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from engine.errors import InputError

SYNC_S = 5.0
"""Seconds between two fsyncs: what a power cut can cost."""


class Line(NamedTuple):
    """A whole line: its number from 1, where it begins, how many bytes it has, what it holds."""

    number: int
    offset: int
    size: int
    value: dict[str, Any]


def read_lines(file: BinaryIO, name: str, accepts: Callable[[dict[str, Any]], bool]) -> Iterator[Line]:
    """The whole lines of `file` from its beginning. A torn last one, without its newline or of zeros, is left out.

    Raises InputError, naming `name` and the line, for any other line that is no JSON object which `accepts` takes.
    """
    offset = file.seek(0)
    for number, raw in enumerate(iter(file.readline, b""), 1):
        value = _parsed(raw)
        if value is None or not accepts(value):
            if file.read(1) or (raw.endswith(b"\n") and raw.strip(b"\0\n")):
                raise InputError(f"{name}:{number}: is no line of this program; restore the file, or begin another")
            return
        yield Line(number, offset, len(raw), value)
        offset += len(raw)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_all(file: FileIO, data: bytes) -> None:
    """Write `data` to an unbuffered file, in as many goes as it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


class AppendLog:
    """One such file, `file` to read it. Whoever opens it reads it first: `read_lines`, then `cut`."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be opened."""
        # Unbuffered: what could not be written is nowhere, and does not come with a later line.
        self._end = path.open("ab", buffering=0)
        self.file: BinaryIO = path.open("rb")
        self._synced = time.monotonic()

    def cut(self, size: int) -> bool:
        """Keep the first `size` bytes only; whether there were more."""
        more = self.file.seek(0, os.SEEK_END) > size
        self._end.truncate(size)
        return more

    def append(self, data: bytes) -> int:
        """Write whole lines in one go; returns where they begin. Raises OSError where the disk is full, and then
        nothing of them stays."""
        offset = self._end.seek(0, os.SEEK_END)
        try:
            write_all(self._end, data)
        except BaseException:
            self._end.truncate(offset)
            raise
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._end.fileno())
            self._synced = time.monotonic()
        return offset

    def close(self) -> None:
        """Ask the disk to keep everything."""
        os.fsync(self._end.fileno())
        self._end.close()
        self.file.close()
