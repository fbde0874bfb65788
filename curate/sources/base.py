"""What every source has in common: where its rows come from, what is asked of them, what becomes of one; and what those
have in common that are made from scratch."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

import msgspec

from curate.row import RowError, optional_text, text
from curate.table_io import file_hash, files, read_rows, row_count
from engine.errors import InputError
from engine.rows_file import BadRow

Count = Annotated[int, msgspec.Meta(ge=1)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
MISSES = 100_000
"""Draws in a row without a new question after which a generated source has no more."""


@dataclass(frozen=True)
class Info:
    """What is known of a source before it is read (arXiv 2501.19393, table 5, and the s1 repository)."""

    name: str
    repo: str
    licence: str
    columns: tuple[str, ...]
    """Columns a row must have."""
    paper: int | None = None
    """Questions the paper counts, of 59,029."""
    parts: tuple[tuple[str | None, str], ...] = ((None, "train"),)
    """(configuration, split) pairs read from the hub."""
    only: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    """Column -> the values of rows that count; where it holds another, the source's own filter leaves the row out."""
    private: bool = False
    """Its authors ask that its text be published nowhere: no report and no log shows it."""


@dataclass(frozen=True)
class Draft:
    """A question as the adapter reads it. `answer` is what an attempt is graded against; None: it cannot be graded.
    Without an `answer_type` it is what `math_type` says of the answer."""

    question: str
    solution: str | None = None
    answer: str | None = None
    answer_type: str = ""
    cot_type: str = "math"
    family: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer_type", self.answer_type or math_type(self.answer))


@dataclass(frozen=True)
class Skip:
    """A row that the source's own filter leaves out."""

    rule: str
    evidence: str


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="adapter"):
    """A source of the configuration: `adapter` names the class, the rest are its fields.

    Rows come from local files (`path`) or, where `hub` is true, from the Hugging Face hub through `datasets`, which
    must be installed; code from the hub is never run.
    """

    info: ClassVar[Info]

    name: str | None = None
    """Name in the tables; None: the adapter's own."""
    path: str | tuple[str, ...] = ()
    """JSONL, JSON, CSV or Parquet files, or hub:OWNER/NAME[/FILE]; patterns and $S1_DATA are resolved."""
    hub: bool = False
    """Read the adapter's own data set from the hub, in place of `path`."""
    revision: str | None = None
    """Commit of the hub's data set."""
    rename: dict[str, str] = {}
    """Column of the file -> the name it should have had."""
    limit: Count | None = None
    """Read no more rows than this."""
    licence: str | None = None
    """Of the rows; None: what is known of the adapter's data set."""

    @property
    def label(self) -> str:
        return self.name or self.info.name

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    def local_files(self) -> list[Path]:
        """The files this source depends on. Raises InputError where one is missing."""
        return files(self.paths, self.revision)

    def read(self) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """(row number from 1 over all files or splits, record) pairs."""
        if self.hub == bool(self.paths):
            raise InputError(f"source {self.label}: give either path (local files) or hub: true")
        rows = self._hub_rows() if self.hub else (r for path in self.local_files() for _, r in read_rows(path))
        for number, row in enumerate(islice(rows, self.limit), start=1):
            if isinstance(row, dict) and self.rename:
                row = {self.rename.get(key, key): value for key, value in row.items()}
            yield number, row

    def expected(self) -> int | None:
        """About how many rows `read` will give, for progress; None where only reading tells (the hub)."""
        if self.hub:
            return self.limit
        rows = sum(map(row_count, self.local_files()))
        return rows if self.limit is None else min(rows, self.limit)

    def refuse_files(self) -> None:
        """For sources that are generated: raises InputError where a setting is given that means nothing there."""
        for name in ("path", "hub", "revision", "rename", "limit"):
            if getattr(self, name) not in (None, False, (), {}):
                raise InputError(f"source {self.label} is generated: {name} means nothing here; leave it out")

    def version(self) -> str:
        """The revision of the tables: the hub's commit, or the start of the files' SHA-256."""
        if self.hub:
            return self.revision or "hub"
        return hashlib.sha256("".join(file_hash(p) for p in self.local_files()).encode()).hexdigest()[:16]

    def _hub_rows(self) -> Iterator[dict[str, Any]]:
        try:
            import datasets  # optional: only the hub needs it
        except ImportError as error:
            raise InputError(
                f"source {self.label}: hub: true needs the package datasets; install it or give path"
            ) from error
        for configuration, split in self.info.parts:
            yield from datasets.load_dataset(self.info.repo, configuration, split=split, revision=self.revision)

    def skip(self, row: Mapping[str, Any]) -> Skip | None:
        """Whether a value of the row does not count. Raises RowError unless the columns are there."""
        missing = [c for c in self.info.columns if c not in row]
        if missing:
            raise RowError(f"column {missing[0]!r} is missing; the row has {', '.join(map(str, row)) or 'none'}")
        other = (c for c, values in self.info.only.items() if c in row and row[c] not in values)
        return next((Skip(c, str(row[c])) for c in other), None)

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        """The question of a row. Raises RowError where the row does not hold one."""
        raise NotImplementedError

    def chosen(self, drafts: Sequence[tuple[int, Draft]]) -> set[int]:
        """Row numbers kept of all that passed `draft`; by default all of them."""
        return {number for number, _ in drafts}


Kind = Callable[[Random], Draft]
"""Makes one question of its kind."""


class Generated(Source, frozen=True, kw_only=True):
    """`rows` different questions, `kinds` in turn."""

    kinds: ClassVar[tuple[Kind, ...]]

    rows: Count
    """How many questions."""
    seed: Seed = 42
    """Of the draw."""

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number from 1, {"draft": Draft}) pairs, none twice. Raises InputError where there are no more."""
        self.refuse_files()
        rng = Random(f"{self.info.name} {self.seed}")
        seen: set[str] = set()
        misses = 0
        while len(seen) < self.rows:
            for kind in self.kinds:
                draft = kind(rng)
                misses = misses + 1 if draft.question in seen else 0
                if misses > MISSES:
                    raise InputError(
                        f"source {self.label}: {len(seen)} questions are all there are; ask for fewer rows than "
                        f"{self.rows}"
                    )
                if draft.question not in seen and len(seen) < self.rows:
                    seen.add(draft.question)
                    yield len(seen), {"draft": draft}

    def expected(self) -> int:
        return self.rows

    def local_files(self) -> list[Path]:
        """The code that makes the questions, in place of files that hold them."""
        return [Path(__file__), Path(inspect.getfile(type(self)))]

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return row["draft"]


def joined_text(row: Mapping[str, Any], column: str) -> str | None:
    """As `optional_text`; of a list its parts, joined by commas."""
    value = row.get(column)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(part) for part in value if part is not None).strip() or None
    return optional_text(row, column)


def texts_in(paths: tuple[str, ...], column: str) -> Iterator[str]:
    """The text in `column` of every row of `paths` that can be read. Raises RowError where a row has none."""
    return (text(row, column) for path in files(paths) for _, row in read_rows(path) if not isinstance(row, BadRow))


def math_type(answer: str | None) -> str:
    """ "number" for a plain number or fraction, "latex" for other mathematics, "none" without an answer."""
    if answer is None:
        return "none"
    return "number" if re.fullmatch(r"[-+]?[\d,]*\.?\d+(?:\s*/\s*\d+)?%?", answer) else "latex"


def latex(value: Fraction) -> str:
    """A whole number, or a fraction in LaTeX."""
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def options_text(options: Sequence[str]) -> str:
    """Options one a line, each opened by its letter: "(A) ..."; a letter that is there already is not doubled."""
    lettered = zip("ABCDEFGHIJ", (str(option).strip() for option in options), strict=False)
    return "\n".join(f"({letter}) " + re.sub(rf"^\(?{letter}[).:]\s*", "", option) for letter, option in lettered)


def key_of(seed: int, value: Any) -> int:
    """A number that depends on `seed` and `value` alone: sorting by it is a shuffle that no order of rows changes."""
    digest = hashlib.sha256(f"{seed}|{json.dumps(value, sort_keys=True, default=str)}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
