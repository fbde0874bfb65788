"""Records of JSONL and Parquet files. A line that cannot be read is a row that says so; what then is the caller's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError


@dataclass(frozen=True)
class BadRow:
    """A row that is no record: why, and the first characters of what stood there."""

    reason: str
    raw: str


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(row or line number from 1, record or BadRow), in order; blank lines are passed over.

    Raises InputError for a Parquet file that cannot be read, and where pyarrow is missing.
    """
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_records(path), start=1)
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _record(line)


def _record(line: bytes) -> dict[str, Any] | BadRow:
    raw = line[:200].decode("utf-8", "replace")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON: {' '.join(str(error).split())}", raw)
    return record if isinstance(record, dict) else BadRow(f"a row must be an object, not {type(record).__name__}", raw)


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # optional: only Parquet files need it
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow; install it or convert the file to JSONL") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())}") from error
