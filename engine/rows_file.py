"""Records of JSONL and Parquet files. A line that cannot be read is a row that says so; what then is the caller's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError, first_line
from engine.input_file import open_regular, read_lines
from engine.json_file import parse_json


@dataclass(frozen=True)
class BadRow:
    """A row that is no record: why, and the first characters of what stood there."""

    reason: str
    raw: str


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(row or line number from 1, record or BadRow), in order; blank lines are passed over.

    Raises InputError for what is no regular file, for a line beyond bounds (`engine.input_file`), for a Parquet file
    that cannot be read, and where pyarrow is missing.
    """
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_records(path), start=1)
        return
    with open_regular(path) as lines:
        for number, line in read_lines(lines, str(path)):
            if line.strip():
                yield number, _record(line)


def _record(line: bytes) -> dict[str, Any] | BadRow:
    raw = line[:200].decode("utf-8", "replace")
    try:
        record = parse_json(line)
    except InputError as error:
        return BadRow(f"not JSON: {error}", raw)
    return record if isinstance(record, dict) else BadRow(f"a row must be an object, not {type(record).__name__}", raw)


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # optional: only Parquet files need it
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow; install it or convert the file to JSONL") from error
    try:
        with open_regular(path) as content, parquet.ParquetFile(content) as file:
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {first_line(error)}") from error
