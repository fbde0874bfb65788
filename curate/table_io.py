"""Rows of JSONL and Parquet files. A line that cannot be read is a row that says so, never an end of the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InputError

DATA = Path(os.environ.get("S1_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Where `$S1_DATA` in a path of a configuration points to when the variable is not set."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no record: why, and the first characters of what stood there."""

    reason: str
    raw: str


def expand(path: str) -> Path:
    """`path` with `$S1_DATA` put in."""
    return Path(path.replace("$S1_DATA", str(DATA)))


def files(paths: tuple[str, ...]) -> list[Path]:
    """The files that `paths` name, patterns resolved (part-*.jsonl). Raises InputError where one is missing."""
    found: list[Path] = []
    for text in paths:
        path = expand(text)
        matches = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else [path]
        matches = [m for m in matches if m.is_file()]
        if not matches:
            raise InputError(f"{text}: no such file (looked for {path}); set S1_DATA or correct the path")
        found += matches
    return found


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(row number from 1, record or BadRow) of a .jsonl or .parquet file, in order.

    Raises InputError for another kind of file and for a Parquet file that cannot be opened.
    """
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in (".jsonl", ".json"):
        yield from _json_rows(path)
    else:
        raise InputError(f"{path}: unknown kind of file {path.suffix!r}; give .jsonl or .parquet")


def row_count(path: Path) -> int:
    """About how many rows a file holds, for progress: lines of .jsonl, rows of .parquet; 0 where it cannot be read."""
    if path.suffix == ".parquet":
        try:
            return pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError):
            return 0  # reading it will say why
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            raw = line[:200].decode("utf-8", "replace")
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                yield number, BadRow(f"not JSON: {' '.join(str(error).split())}", raw)
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                yield number, BadRow(f"a row must be an object, not {type(record).__name__}", raw)
