"""Files of JSON objects, one a line, that grow by whole lines and outlive whatever ends their writer.

A line is written in one go and handed to the operating system at once, so a killed process loses nothing that it had
written; the disk is asked to keep it every few seconds and at the end. What a kill can leave is a torn last line. One
process writes a file at a time, and a file that loses its name under its writer keeps its lines.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, NamedTuple

from engine.errors import InputError
from engine.one_writer import claim
from engine.whole_file import write_whole

SYNC_S = 5.0
"""Seconds between two fsyncs: what a power cut can cost."""


class Line(NamedTuple):
    """A whole line: its number from 1, where it begins, how many bytes it has, what it holds."""

    number: int
    offset: int
    size: int
    value: dict[str, Any]


def json_line(record: Mapping[str, Any]) -> bytes:
    """`record` as one line of JSON, newline included. Raises ValueError for NaN and infinities.

    No character inside it ends a line to anybody: JSON escapes the controls, and what else `str.splitlines` splits at
    is escaped here.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        return re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", text).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can write
        return json.dumps(record, allow_nan=False).encode() + b"\n"


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


class Displaced(OSError):
    """A file was removed, moved or replaced while it was being written. The message says where its lines are."""


class AppendLog:
    """One such file, `file` to read it. Whoever opens it reads it first: `read_lines`, then `cut`."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Raises OSError where it cannot be opened, InputError where another process writes it, which calls it `name`
        (its path)."""
        self.path = path
        while True:
            # Unbuffered: what could not be written is nowhere, and does not come with a later line.
            self._end = path.open("ab", buffering=0)
            try:
                claim(self._end.fileno(), name or str(path))
                self.file: BinaryIO = path.open("rb")
            except BaseException:
                self._end.close()
                raise
            if self.in_place and os.path.samestat(os.fstat(self.file.fileno()), os.fstat(self._end.fileno())):
                break
            # The writer before us has renamed its result over what we had opened: that one is the file.
            self.release()
        self._synced = time.monotonic()

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._end.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def cut(self, size: int) -> bool:
        """Keep the first `size` bytes only; whether there were more."""
        more = self.file.seek(0, os.SEEK_END) > size
        self._end.truncate(size)
        return more

    def append(self, data: bytes) -> int:
        """Write whole lines in one go; returns where they begin. Raises OSError where the disk is full or the file is
        not in its place any more, and then nothing of them stays."""
        if not self.in_place:
            raise Displaced(f"{self.path} was removed, moved or replaced while it was being written")
        offset = self._end.seek(0, os.SEEK_END)
        try:
            write_all(self._end, data)
        except BaseException as error:
            self._end.truncate(offset)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._end.fileno())
            self._synced = time.monotonic()
        return offset

    def replace(self, content: Iterable[bytes]) -> None:
        """Put `content` in the place of the file, at once and whole, and end writing. Raises OSError where that cannot
        be; the file is then as it was, and still to be closed."""
        write_whole(self.path, content)
        self.release()

    def close(self) -> None:
        """Ask the disk to keep everything. Raises Displaced, once the lines are kept elsewhere, where the path does not
        lead to this file any more. Calling it again does nothing."""
        if self._end.closed:
            return
        with closing(self._end), closing(self.file):
            os.fsync(self._end.fileno())
            if not self.in_place:
                raise Displaced(
                    f"{self.path} was removed, moved or replaced while it was being written; its lines are in "
                    f"{self._kept()}"
                )

    def release(self) -> None:
        """Let go of the file as it is."""
        self._end.close()
        self.file.close()

    def _kept(self) -> Path:
        """Where the lines are: where the file was moved to, or a copy that is made under its name, beside it where
        another has the name, or among the temporary files where that cannot be."""
        with suppress(OSError):
            moved = Path(os.readlink(f"/proc/self/fd/{self._end.fileno()}"))
            if os.path.samestat(moved.stat(), os.fstat(self._end.fileno())):
                return moved
        beside = self.path.with_name(f"{self.path.name}.{token_hex(4)}")
        for copy in (self.path, beside, Path(tempfile.gettempdir()) / beside.name):
            with suppress(OSError):
                if not os.path.lexists(copy):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    self.file.seek(0)
                    write_whole(copy, iter(lambda: self.file.read(1 << 20), b""))
                    return copy
        raise Displaced(f"{self.path} was removed while it was being written, and no disk has room for its lines")
