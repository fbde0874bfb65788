"""Files of questions: where they are, how many rows they have, and the rows."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import rows_file
from engine.errors import InputError
from engine.hub_data import PREFIX, local_files
from engine.rows_file import BadRow

DATA = Path(os.environ.get("S1_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Where `$S1_DATA` in a path of a configuration points to when the variable is not set."""


def files(paths: tuple[str, ...], revision: str | None = None) -> list[Path]:
    """The files that `paths` name, patterns resolved (part-*.jsonl); `hub:OWNER/NAME[/FILE]` those of a data set on the
    hub, of its training split where it has splits, at `revision`. Raises InputError where one is missing."""
    found: list[Path] = []
    for text in paths:
        if text.startswith(PREFIX):
            found += local_files(text, "train", revision)
            continue
        path = Path(text.replace("$S1_DATA", str(DATA)))
        named = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else [path]
        matches = [match for match in named if match.is_file()]
        if not matches:
            where = f" (looked for {path}); set S1_DATA or" if "$S1_DATA" in text else ";"
            raise InputError(f"{text}: no such file{where} correct the path")
        found += matches
    return found


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """See engine.rows_file. Raises InputError for another kind of file."""
    if path.suffix.lower() not in rows_file.KINDS:
        raise InputError(f"{path}: unknown kind of file {path.suffix!r}; give {', '.join(rows_file.KINDS)}")
    return rows_file.read_rows(path)


def row_count(path: Path) -> int:
    """About how many rows a file holds, for progress: lines of text, rows of .parquet; 0 where it cannot be read."""
    if path.suffix.lower() == ".parquet":
        from pyarrow import ArrowException, parquet  # slow, and only Parquet files need it

        try:
            return parquet.read_metadata(path).num_rows
        except (ArrowException, OSError):
            return 0  # reading it will say why
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
