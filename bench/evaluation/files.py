"""Question files: found by path or on the hub, counted and checksummed before a row of them is used."""

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError, first_line
from engine.json_file import parse_json


@dataclass(frozen=True)
class Row:
    """One row of a question file; `place` is its name in messages, `number` counts from 1."""

    place: str
    number: int
    values: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """The first of `names` that the row has, as stripped text. Raises InputError naming file, row and field."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
                return str(value).strip()
        raise InputError(f"{self.place} has no {' or '.join(names)}; it has {sorted(self.values)}")


def data_folder() -> Path:
    """Where public question files are: the environment's S1_DATA, otherwise `../shared/data` beside the repository."""
    return Path(os.environ.get("S1_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def locate(task: str, given: str | None, revision: str | None, default: str | None) -> Path:
    """The file of a task.

    Args:
        given: a path, or `hub:OWNER/NAME/FILE` for a file of a data set on the hub (its cache is used first).
        revision: of the hub's data set.
        default: path below `data_folder()` for a task that has its file there.

    Raises InputError naming the task where there is no file.
    """
    if given is not None and given.startswith("hub:"):
        return _from_hub(task, given, revision)
    if given is not None:
        path, why = Path(given).expanduser(), f"{given} is no file; give an existing file or hub:OWNER/NAME/FILE"
    elif default is not None:
        path = data_folder() / default
        why = f"{path} does not exist; set S1_DATA to the folder that holds {default}, or give path: FILE"
    else:
        raise InputError(f"task {task}: no file; give path: FILE or path: hub:OWNER/NAME/FILE")
    if not path.is_file():
        raise InputError(f"task {task}: {why}")
    return path


def _from_hub(task: str, given: str, revision: str | None) -> Path:
    parts = given.removeprefix("hub:").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise InputError(f"task {task}: path {given!r} is not hub:OWNER/NAME/FILE")
    # Only here, where its seconds of imports buy something.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2], repo_type="dataset", revision=revision))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"task {task}: {given} cannot be fetched ({first_line(error)}); "
            "log in with `hf auth login`, or give path: FILE"
        ) from error


def read(task: str, path: Path, rows: int, known: Sequence[str], sha256: str | None) -> tuple[str, list[Row]]:
    """SHA-256 and rows of a file (.jsonl, .json, .csv or .parquet), checked.

    Args:
        rows: how many it must have.
        known: SHA-256 values, or beginnings of them, of files that are known to hold the task.
        sha256: the value that the grid gives, which is then the only one that is right.

    Raises InputError naming the task and both values where the checksum or the number of rows is another.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise InputError(
            f"task {task}: {path} has SHA-256 {found} and the grid says {sha256}; fetch the file again or "
            "correct the grid"
        )
    if sha256 is None and not any(found.startswith(value) for value in known):
        raise InputError(
            f"task {task}: {path} has SHA-256 {found}, which is none of the known files of this task; "
            f"to use it all the same give sha256: {found}"
        )
    try:
        parsed = _parse(path, data)
    except (ValueError, UnicodeError) as error:
        raise InputError(f"task {task}: {path} cannot be read: {error}") from error
    if len(parsed) != rows:
        raise InputError(f"task {task}: {path} has {len(parsed)} rows and the task has {rows}; use the whole file")
    return found, [Row(f"task {task}: {path}: row {i}", i, values) for i, values in enumerate(parsed, 1)]


def _parse(path: Path, data: bytes) -> list[dict[str, Any]]:
    match path.suffix.lower():
        case ".parquet":
            from pyarrow import parquet  # optional: the hub's files are parquet, those in the data folder are not

            return parquet.read_table(io.BytesIO(data)).to_pylist()
        case ".csv":
            return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        case ".json" | ".jsonl":
            if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
                return parse_json(data)
            return [parse_json(line) for line in data.split(b"\n") if line.strip()]
        case suffix:
            raise ValueError(f"unknown kind of file {suffix!r}; give .jsonl, .json, .csv or .parquet")
