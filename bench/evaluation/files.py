"""Question files: found by path or on the hub, counted and checksummed before a row of them is used."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.hub_data import local_files
from engine.rows_file import KINDS, BadRow, read_rows


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


def locate(task: str, given: str | None, revision: str | None, default: str | None, split: str = "test") -> Path:
    """The file of a task.

    Args:
        given: a path, or `hub:OWNER/NAME[/FILE]` for a file of a data set on the hub (its cache is used first).
        revision: of the hub's data set.
        default: path below `data_folder()` for a task that has its file there.
        split: of a data set on the hub of which no file is named.

    Raises InputError naming the task where there is no file.
    """
    if given is not None and given.startswith("hub:"):
        try:
            found = local_files(given, split, revision)
        except InputError as error:
            raise InputError(f"task {task}: {error}") from error
        if len(found) != 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"task {task}: {given} has {len(found)} files ({names}); name one, hub:OWNER/NAME/FILE")
        return found[0]
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


def read(
    task: str, path: Path, rows: int | None, known: Sequence[str] | None, sha256: str | None
) -> tuple[str, list[Row]]:
    """SHA-256 and rows of a file (.jsonl, .json, .csv or .parquet), checked.

    Args:
        rows: how many it must have; None: any number.
        known: SHA-256 values, or beginnings of them, of files that are known to hold the task; None: any file may.
        sha256: the value that the grid gives, which is then the only one that is right.

    Raises InputError naming the task and both values where the checksum or the number of rows is another.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise InputError(
            f"task {task}: {path} has SHA-256 {found} and the grid says {sha256}; fetch the file again or "
            "correct the grid"
        )
    if sha256 is None and known is not None and not any(found.startswith(value) for value in known):
        raise InputError(
            f"task {task}: {path} has SHA-256 {found}, which is none of the known files of this task; "
            f"to use it all the same give sha256: {found}"
        )
    if path.suffix.lower() not in KINDS:
        raise InputError(f"task {task}: {path}: unknown kind of file {path.suffix!r}; give {', '.join(KINDS)}")
    try:
        parsed = list(read_rows(path))
    except InputError as error:
        raise InputError(f"task {task}: {error}") from error
    bad = next((f"row {i}: {row.reason}: {row.raw[:80]}" for i, row in parsed if isinstance(row, BadRow)), None)
    if bad is not None:
        raise InputError(f"task {task}: {path}: {bad}; repair the file")
    if rows is not None and len(parsed) != rows:
        raise InputError(f"task {task}: {path} has {len(parsed)} rows and the task has {rows}; use the whole file")
    if not parsed:
        raise InputError(f"task {task}: {path} has no rows; give a file with questions")
    values = ((at, row) for at, row in parsed if not isinstance(row, BadRow))
    return found, [Row(f"task {task}: {path}: row {at}", i, row) for i, (at, row) in enumerate(values, 1)]
