"""Sources that are made from scratch, each of a few kinds of question that take turns."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from curate.sources.base import MISSES, Draft, Source
from engine.errors import InputError

Kind = Callable[[Random], Draft]
"""Makes one question of its kind."""


class Generated(Source, frozen=True, kw_only=True):
    """`rows` different questions, `kinds` in turn."""

    kinds: ClassVar[tuple[Kind, ...]]

    rows: int
    seed: int = 42

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
