"""The two sets that s1 brought itself: s1-prob (examination problems in probability) and s1-teasers (quantitative
interview puzzles). `curate.sources.probability` and `curate.sources.teasers` make sets of the same kind."""

from collections.abc import Mapping
from typing import Any, ClassVar

from curate.grading.answer_text import last_box
from curate.sources.base import Draft, Info, Source, optional_text, text


class S1Prob(Source, frozen=True, kw_only=True, tag="s1-prob"):
    """Proofs and calculations with written solutions; a solution that ends in no box is graded by a judge only."""

    info: ClassVar[Info] = Info("s1-prob", "simplescaling/s1-prob", "Apache-2.0", ("question", "solution"), 182)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        solution = text(row, "solution")
        return Draft(text(row, "question"), solution, last_box(solution))


class S1Teasers(Source, frozen=True, kw_only=True, tag="s1-teasers"):
    """Puzzles marked "Hard"."""

    info: ClassVar[Info] = Info(
        "s1-teasers",
        "simplescaling/s1-teasers",
        "Apache-2.0",
        ("question", "solution"),
        23,
        only={"difficulty": (None, "Hard", "hard")},
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        solution = text(row, "solution")
        return Draft(text(row, "question"), solution, optional_text(row, "answer") or last_box(solution) or solution)
