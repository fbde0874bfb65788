"""Records of files: JSONL, JSON, CSV and Parquet. A row that cannot be read says so; what then is the caller's."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError, first_line
from engine.input_file import MAX_LINE_BYTES, open_regular, read_lines
from engine.json_file import parse_json

KINDS = (".csv", ".json", ".jsonl", ".parquet")
"""Endings that are known; a file of another one is read as JSONL."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no record: why, and the first characters of what stood there."""

    reason: str
    raw: str


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(row or line number from 1, record or BadRow), in order; blank lines are passed over. A .json file holds a list
    of records, or is JSONL after all; a .csv file begins with the names of its columns, and its values are text.

    Raises InputError for what is no regular file, for a line beyond bounds (`engine.input_file`), for a file that
    cannot be read as what it is called, and where pyarrow is missing.
    """
    match path.suffix.lower():
        case ".parquet":
            yield from enumerate(_parquet_records(path), start=1)
        case ".csv":
            yield from enumerate(_csv_records(path), start=1)
        case ".json" if (listed := _json_list(path)) is not None:
            yield from enumerate(map(_checked, listed), start=1)
        case _:
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
    return _checked(record)


def _checked(record: Any) -> dict[str, Any] | BadRow:
    if isinstance(record, dict):
        return record
    return BadRow(f"a row must be an object, not {type(record).__name__}", str(record)[:200])


def _json_list(path: Path) -> list[Any] | None:
    """The list that a JSON file is; None where it is none, which is told from its beginning."""
    with open_regular(path) as file:
        if not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
        file.seek(0)
        try:
            return parse_json(file.read())
        except InputError as error:
            raise InputError(f"{path}: not JSON: {error}") from error


def _csv_records(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    with open_regular(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as text:
        csv.field_size_limit(MAX_LINE_BYTES)
        rows = csv.reader(text, strict=True)
        try:
            head = next(rows, [])
            twice = next((name for name in head if head.count(name) > 1), None)
            if not head or twice is not None:
                why = "is empty" if not head else f"has two columns {twice!r}"
                raise InputError(f"{path} {why}; its first line must name its columns")
            for row in filter(None, rows):
                bad = BadRow(f"{len(row)} values, and {len(head)} columns are named", ",".join(row)[:200])
                yield dict(zip(head, row, strict=True)) if len(row) == len(head) else bad
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not CSV in UTF-8, behind line {rows.line_num}: {first_line(error)}") from error


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
