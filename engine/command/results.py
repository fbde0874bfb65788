"""The output file of a run: lines are appended as requests finish, and put into input order at the end.

A line is written in one go and handed to the operating system at once, so a killed process loses nothing that was
finished; the disk is asked to keep it every few seconds and at the end. Ordering writes a second file beside the
first and renames it over it, so the file is whole at every moment.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from engine.command.append_log import AppendLog, json_line, read_lines, write_all
from engine.command.jsonl import InputLine, Origin, changed_params
from engine.errors import InputError, is_whole, refuse


class ResultsFile:
    """Opened by `prepare` (checks only, nothing is created), used after `open`, ended by `close`."""

    def __init__(self, path: str) -> None:
        self.name = "<stdout>" if path == "-" else path
        self._path = None if path == "-" else Path(os.path.realpath(path))
        self._stream_to: Path | None = None
        if self._path is not None and os.path.exists(self._path) and not self._path.is_file():
            self._path, self._stream_to = None, self._path  # a pipe or a device: appended to, never renamed over
        self._log: AppendLog | None = None
        self._stream: FileIO | None = None
        self._spans: dict[int, tuple[int, int]] = {}
        """Offset and length of each finished index."""
        self._whole = 0
        """Bytes that `open` keeps."""

    def prepare(self, lines: Sequence[InputLine], origin: Origin, resume: bool, overwrite: bool) -> list[str]:
        """Check that the file can be written and, for `resume`, what it holds. Returns warnings. A file that is there
        is kept from other processes until `close` or `release`.

        Raises InputError where it cannot be written or another process writes it, where it exists and neither `resume`
        nor `overwrite` is given, and where a line of it was not made from the same input, parameters, model and
        settings of the engine.
        """
        if self._path is None:
            target = self._stream_to
            refuse(
                (target is None and sys.stdout is None, f"{self.name}: is closed; give a file for --output"),
                (target is not None and target.is_dir(), f"{self.name}: is a folder; choose another --output"),
                (
                    target is not None and not os.access(target, os.W_OK),
                    f"{self.name}: cannot be written; choose another --output",
                ),
                (resume, f"--resume needs an output file, and {self.name} is none"),
            )
            return []
        self._claim()
        exists = self._log is not None and self._log.file.seek(0, os.SEEK_END) > 0
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
        """Start writing: behind the last whole line, which is the beginning unless `prepare` was told to resume.

        Raises InputError where another process has come first.
        """
        if self._path is not None:
            if self._log is None:
                self._log = AppendLog(self._path, self.name)
                if self._log.file.seek(0, os.SEEK_END):
                    raise InputError(f"{self.name}: another process has written it meanwhile; choose another --output")
            self._log.cut(self._whole)
        elif self._stream_to is not None:
            self._stream = self._stream_to.open("ab", buffering=0)
        else:
            # Unbuffered: what could not be written is nowhere, so that closing does not fail on it again.
            sys.stdout.flush()
            self._stream = open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115 (until `close`)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one finished request. Raises OSError where the disk is full; nothing of it then stays in a file."""
        data, offset = json_line(record), 0
        if self._log is not None:
            offset = self._log.append(data)
        else:
            assert self._stream is not None, "open first"
            write_all(self._stream, data)
        self._spans[record["index"]] = offset, len(data)

    def close(self, order: bool) -> None:
        """End writing; with `order`, put the lines into input order by an atomic rename. Calling it again does nothing.

        Raises OSError where that cannot be. No line is lost by it: the message says where they are.
        """
        if self._stream is not None:
            self._stream.close()
        if self._log is None:
            return
        log, self._log = self._log, None
        try:
            spans, size = sorted(self._spans.items()), log.file.seek(0, os.SEEK_END)
            as_written = spans == list(self._spans.items()) and sum(length for _, (_, length) in spans) == size
            if order and not as_written and log.in_place:
                try:
                    log.replace(os.pread(log.file.fileno(), length, offset) for _, (offset, length) in spans)
                except OSError as error:
                    raise OSError(
                        f"cannot put the lines into input order: {error.strerror or error}; mend that, and --resume "
                        "does it"
                    ) from error
        finally:
            log.close()

    def release(self) -> None:
        """Let go of a file that was not written after all."""
        if self._log is not None:
            self._log.release()

    def _claim(self) -> None:
        assert self._path is not None
        try:
            if self._path.exists() or self._path.is_symlink():  # a link that leads nowhere is one in a circle
                self._log = AppendLog(self._path, self.name)
            tempfile.TemporaryFile(prefix=".", dir=self._path.parent).close()  # the final rename needs the folder
        except OSError as error:
            raise InputError(f"{self.name}: cannot be written: {error.strerror}; choose another --output") from error

    def _read_finished(self, lines: Sequence[InputLine], origin: Origin) -> list[str]:
        """Take note of the finished lines; a torn last one is left out, and so overwritten."""
        assert self._log is not None
        file, number = self._log.file, 0
        for number, offset, size, record in read_lines(file, self.name, _is_record):
            _check_same(record, f"{self.name}:{number}", lines, origin)
            if record["index"] not in self._spans and not _failed(record):  # else left out of the final order
                self._spans[record["index"]] = offset, size
            self._whole += size
        torn = file.seek(0, os.SEEK_END) > self._whole
        return [f"{self.name}:{number + 1}: the last line is torn; its request runs again"] if torn else []


def _is_record(value: Mapping[str, Any]) -> bool:
    outputs = value.get("outputs", [])
    samples = isinstance(outputs, list) and all(isinstance(sample, dict) for sample in outputs)
    return samples and is_whole(value.get("index"))


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
