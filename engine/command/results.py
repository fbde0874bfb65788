"""The output file of a run: lines are appended as requests finish, and put into input order at the end.

A line is written in one go and handed to the operating system at once, so a killed process loses nothing that was
finished; the disk is asked to keep it every few seconds and at the end. Ordering writes a second file beside the
first and renames it over it, so the file is whole at every moment.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from engine.command.append_log import SYNC_S, read_lines
from engine.command.jsonl import InputLine, Origin, changed_params, encode_record
from engine.errors import InputError


class ResultsFile:
    """Opened by `prepare` (checks only, nothing is created), used after `open`, ended by `close`."""

    def __init__(self, path: str) -> None:
        self.name = "<stdout>" if path == "-" else path
        self._path = None if path == "-" else Path(os.path.realpath(path))
        self._stream_to: Path | None = None
        if self._path is not None and os.path.exists(self._path) and not self._path.is_file():
            self._path, self._stream_to = None, self._path  # a pipe or a device: appended to, never renamed over
        self._file: FileIO | None = None
        self._spans: dict[int, tuple[int, int]] = {}
        """Offset and length of each finished index."""
        self._whole = 0
        """Bytes up to the end of the last whole line."""
        self._last, self._sorted = -1, True
        self._synced = time.monotonic()

    def prepare(self, lines: Sequence[InputLine], origin: Origin, resume: bool, overwrite: bool) -> list[str]:
        """Check that the file can be written and, for `resume`, what it holds. Returns warnings.

        Raises InputError where it cannot be written, where it exists and neither `resume` nor `overwrite` is given,
        and where a line of it was not made from the same input, parameters, model and settings of the engine.
        """
        if self._path is None:
            if self._stream_to is None and sys.stdout is None:
                raise InputError(f"{self.name}: is closed; give a file for --output")
            if self._stream_to is not None and (self._stream_to.is_dir() or not os.access(self._stream_to, os.W_OK)):
                what = "is a folder" if self._stream_to.is_dir() else "cannot be written"
                raise InputError(f"{self.name}: {what}; choose another --output")
            if resume:
                raise InputError(f"--resume needs an output file, and {self.name} is none")
            return []
        self._check_writable()
        exists = self._path.is_file() and self._path.stat().st_size > 0
        if exists and not resume and not overwrite:
            raise InputError(f"{self.name} exists; --resume goes on with it, --overwrite starts it anew")
        return self._read_finished(lines, origin) if exists and resume else []

    @property
    def streams(self) -> bool:
        """Whether it is standard output, a pipe or a device: lines stay in the order in which they finish."""
        return self._path is None

    @property
    def finished(self) -> set[int]:
        """Indices that need not run again."""
        return set(self._spans)

    def open(self) -> None:
        """Start writing: behind the last whole line, which is the beginning unless `prepare` was told to resume."""
        # Unbuffered: what could not be written is nowhere, so that closing does not fail on it again.
        if self._path is None:
            if self._stream_to is None:
                sys.stdout.flush()
                self._file = open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115 (until `close`)
            else:
                self._file = self._stream_to.open("ab", buffering=0)
            return
        self._file = self._path.open("r+b" if self._path.exists() else "x+b", buffering=0)
        self._file.truncate(self._whole)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one finished request. Raises OSError where the disk is full; what fitted is overwritten or cut off."""
        assert self._file is not None, "open first"
        data = encode_record(record)
        if self._path is not None:
            self._file.seek(self._whole)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self._note(record["index"], len(data))
        if self._path is not None and time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self, order: bool) -> None:
        """End writing; with `order`, put the lines into input order by an atomic rename."""
        if self._file is None:
            return
        file, self._file = self._file, None
        if self._path is None:
            file.close()
            return
        with file:
            file.truncate(self._whole)
            os.fsync(file.fileno())
            if order and not self._sorted:
                self._write_ordered(file, self._path)

    def _note(self, index: int, length: int) -> None:
        """A whole line of a finished request stands at the end of the file."""
        self._sorted = self._sorted and index > self._last
        self._last = index
        self._spans[index] = (self._whole, length)
        self._whole += length

    def _write_ordered(self, source: FileIO, path: Path) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as target:
                for _, (offset, length) in sorted(self._spans.items()):
                    source.seek(offset)
                    target.write(source.read(length))
                target.flush()
                os.fsync(target.fileno())
            shutil.copymode(path, temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _check_writable(self) -> None:
        assert self._path is not None
        try:
            if self._path.exists():
                with self._path.open("r+b"):
                    pass
            with tempfile.TemporaryFile(prefix=".", dir=self._path.parent):
                pass  # the final rename needs the folder
        except OSError as error:
            raise InputError(f"{self.name}: cannot be written: {error.strerror}; choose another --output") from error

    def _read_finished(self, lines: Sequence[InputLine], origin: Origin) -> list[str]:
        """Take note of the finished lines; a torn last one is left out, and so overwritten."""
        assert self._path is not None
        with self._path.open("rb") as file:
            number = 0
            for number, _, size, record in read_lines(file, self.name, lambda r: isinstance(r.get("index"), int)):
                _check_same(record, f"{self.name}:{number}", lines, origin)
                if record["index"] not in self._spans and not _failed(record):
                    self._note(record["index"], size)
                else:  # left out when the file is put in order
                    self._sorted = False
                    self._whole += size
            torn = file.seek(0, os.SEEK_END) > self._whole
        return [f"{self.name}:{number + 1}: the last line is torn; its request runs again"] if torn else []


def _check_same(record: Mapping[str, Any], where: str, lines: Sequence[InputLine], origin: Origin) -> None:
    index = record["index"]
    if not 0 <= index < len(lines):
        raise InputError(
            f"{where}: answers request {index} and the input has {len(lines)}; "
            "resume with the same input or choose another --output"
        )
    line = lines[index]
    now = {
        "id": line.id,
        "input": json.loads(json.dumps(line.fields)),
        "params": changed_params(line.params),
        "model": origin.model,
        "engine": dict(origin.engine),
    }
    for name, value in now.items():
        was = record.get(name, {} if name == "engine" else None)
        if was != value:
            raise InputError(
                f"{where}: was made with {name} {_short(was)} and {line.where} now has "
                f"{_short(value)}; resume with the same or choose another --output"
            )


def _failed(record: Mapping[str, Any]) -> bool:
    """Whether a sample ended by an error or an abort, so that the request is worth another try."""
    return any(sample.get("finish_reason") in ("error", "abort") for sample in record.get("outputs", []))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
