"""The log of a run: a folder with `run.json` (what it was made with) and `samples.jsonl` (a row per finished sample).

Rows are appended, each in one write that is handed to the operating system at once, so a kill at any moment loses only
samples that had not finished. Opening the folder again goes on where it ended: a torn last line is cut off, and a run
made with anything else (grid, model, problems) is refused by name.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from engine import InputError
from engine.command.append_log import AppendLog, read_lines
from engine.errors import shown
from engine.json_file import parse_json
from engine.whole_file import write_whole


class Key(NamedTuple):
    """What a row is of. `condition` is a label, or `trace ...` for a trace that others were forked from."""

    task: str
    problem: str
    condition: str
    sample: int


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    text: str | None
    rule: str


class _Searched(msgspec.Struct):
    """What is read of a search in numbers."""

    unique_tokens: _Count
    path_tokens: _Count
    reward_tokens: dict[str, _Count]
    parameters: dict[str, _Count]
    flops: Annotated[int, msgspec.Meta(ge=0)]
    nodes: list[dict[str, Any]]


class _Row(msgspec.Struct):
    """What is read of a row besides its key."""

    task: str
    problem: str
    condition: str
    sample: _Count
    at: float
    source: str
    generated: _Count
    tries: _Count
    left_thinking: bool
    choice: _Choice | None
    token_ids: list[_Count]
    forced: list[_Count]
    reasoning: str
    answer: str
    thinking_tokens: _Count
    completion_tokens: _Count
    stop_reason: str | None
    mean_logprob: float | None
    error: str | None
    search: _Searched | None = None


class _Identity(msgspec.Struct):
    grid: dict[str, Any]
    tasks: dict[str, str]


class _About(msgspec.Struct):
    name: str


class _Run(msgspec.Struct):
    """What is read of `run.json`."""

    identity: _Identity
    about: _About


class Log(AbstractContextManager["Log"]):
    """Opened for writing by one process at a time, as a context manager: at its end the disk is asked to keep all."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Start a run in `folder` or go on with the one there.

        Args:
            identity: what must be equal for two runs to be one; JSON values.
            about: what is noted besides (versions, commit, device), of the first start.

        Raises InputError where the folder holds another run, a foreign line, or is being written by another process.
        """
        self.folder = folder
        self.config = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.warnings: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = AppendLog(folder / "samples.jsonl", str(folder))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error
        with ExitStack() as opened:
            opened.callback(self._lines.release)
            self._check_identity(json.loads(json.dumps(identity)), about)
            self._offsets = self._scan()
            opened.pop_all()  # all is well: it stays open

    def __contains__(self, key: Key) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, key: Key) -> dict[str, Any]:
        """The row of `key`. Raises KeyError where there is none."""
        self._lines.file.seek(self._offsets[key])
        return json.loads(self._lines.file.readline())

    def write(self, rows: Sequence[tuple[Key, Mapping[str, Any]]]) -> None:
        """Append rows in one write. Raises ValueError for a key that is there, OSError where the disk is full."""
        data, starts = bytearray(), {}
        for key, values in rows:
            if key in self._offsets or key in starts:
                raise ValueError(f"{key} is in the log already")
            starts[key] = len(data)
            row = {**key._asdict(), "config": self.config, **values, "at": round(time.time(), 3)}
            data += json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        end = self._lines.append(bytes(data))
        self._offsets |= {key: end + start for key, start in starts.items()}

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            self._lines.close()
        finally:
            if kind is not None and issubclass(kind, InputError) and not self._offsets:  # refused: no run has begun
                for file in (self._lines.path, self._run_file):
                    file.unlink(missing_ok=True)
                with suppress(OSError):  # it may hold other files
                    self.folder.rmdir()
            elif self._lines.path.exists() and not self._run_file.exists():  # without it the samples are no run's
                write_whole(self._run_file, self._made)

    @property
    def _run_file(self) -> Path:
        return self.folder / "run.json"

    def _check_identity(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        if not self._run_file.exists():
            if self._lines.file.seek(0, os.SEEK_END):
                raise InputError(f"{self.folder}: has samples and no run.json; choose another folder")
            self._made = json.dumps({"identity": identity, "about": about}, indent=1).encode() + b"\n"
            write_whole(self._run_file, self._made)
            return
        self._made = self._run_file.read_bytes()
        before = read_run(self.folder)["identity"]
        if before != identity:
            where, old, new = _first_difference(before, identity)
            raise InputError(
                f"{self.folder}: holds a run with {where} {shown(old)}, and this one has {shown(new)}; "
                "choose another folder, or go back to what it was made with"
            )

    def _scan(self) -> dict[Key, int]:
        """Offsets of the whole rows; a torn last one is cut off."""
        name = str(self.folder / "samples.jsonl")
        offsets: dict[Key, int] = {}
        number = whole = 0
        for number, offset, size, row in read_lines(self._lines.file, name, _is_row):
            key = key_of(row)
            if row.get("config") != self.config or key in offsets:
                what = "stands there twice" if key in offsets else f"is of another run, {row.get('config')}"
                raise InputError(f"{name}:{number}: {key} {what}; restore the file")
            offsets[key] = offset
            whole = offset + size
        if self._lines.cut(whole):
            self.warnings.append(f"{name}:{number + 1}: the last row is torn and runs again")
        return offsets


def read_run(folder: Path) -> dict[str, Any]:
    """`run.json` of a folder. Raises InputError where there is none."""
    try:
        found = parse_json((folder / "run.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder}: no run is there ({error.strerror}); give the folder of `python -m bench.evaluate "
            "GRID.yaml --out FOLDER`"
        ) from error
    except ValueError as error:
        raise InputError(f"{folder / 'run.json'}: no JSON: {error}; restore the file") from error
    if not _is(_Run, found):
        raise InputError(f"{folder / 'run.json'}: does not say what was run; restore the file")
    return found


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a folder, in the order in which they finished; a torn last one is left out."""
    path = folder / "samples.jsonl"
    if path.exists():
        with path.open("rb") as file:
            yield from (line.value for line in read_lines(file, str(path), _is_row))


def sample_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Those rows of a folder that are a condition's sample, and no trace."""
    return (row for row in read_rows(folder) if not row["condition"].startswith("trace "))


def key_of(row: Mapping[str, Any]) -> Key:
    """The key that a row was written under."""
    return Key(row["task"], row["problem"], row["condition"], row["sample"])


def _is_row(value: Mapping[str, Any]) -> bool:
    return _is(_Row, value)


def _is(kind: type, value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError):  # the latter: a name that is not valid Unicode
        return False
    return True


def _first_difference(old: Any, new: Any, path: str = "") -> tuple[str, Any, Any]:
    """(where, what was, what is) of the first value in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                return _first_difference(a, b, f"{path}[{i}]")
    return path, old, new
