"""Reading and words: AGIEval's examinations and crosswords."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from curate.sources.base import (
    Draft,
    Info,
    RowError,
    Seed,
    Skip,
    Source,
    key_of,
    optional_text,
    options_text,
    text,
)

SUBSETS = ("sat_en", "sat_math", "lsat_ar", "lsat_lr", "lsat_rc", "logiqa", "aqua_rat", "math")
INSTRUCTION = "Solve this crossword clue. The number of letters of the answer stands in brackets."


class AGIEval(Source, frozen=True, kw_only=True, tag="AGIEval"):
    """Passage, question and options in one text. Of the competition problems (`math`) only level 5."""

    info: ClassVar[Info] = Info(
        "AGIEval",
        "baber/agieval",
        "MIT",
        ("passage", "question", "options", "label", "answer"),
        2_385,
        tuple((subset, split) for subset in SUBSETS for split in ("test", "few_shot")),
    )

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        other = row["other"] if isinstance(row.get("other"), Mapping) else {}
        if other.get("level") is not None and int(other["level"]) < 5:
            return Skip("level", str(other["level"]))
        options, label = row["options"], optional_text(row, "label")
        parts = [part for part in (optional_text(row, "passage"), text(row, "question")) if part]
        solution = optional_text(other, "solution")
        if options:
            if not isinstance(options, (list, tuple)):
                raise RowError(f"column 'options' is {str(options)[:60]!r}; a list of texts is needed")
            if label is None or label not in "ABCDEFGHIJ"[: len(options)]:
                raise RowError(f"column 'label' is {label!r}; one of the {len(options)} letters is needed")
            parts.append(options_text(options))
            return Draft("\n".join(parts), solution or label, label, "choice", "english" if row["passage"] else "math")
        answer = optional_text(row, "answer")
        return Draft("\n".join(parts), solution or answer, answer)


class Crossword(Source, frozen=True, kw_only=True, tag="xword"):
    """`sample` clues, chosen by a seeded hash of the clue."""

    info: ClassVar[Info] = Info("xword", "0xharib/xword1", "unknown", ("input", "output"), 999)
    sample: int = 1_000
    """How many clues."""
    seed: Seed = 42
    """Which clues are chosen."""

    def draft(self, row: Mapping[str, Any]) -> Draft:
        question = f"{optional_text(row, 'instruction') or INSTRUCTION} {text(row, 'input')}"
        return Draft(question, answer := text(row, "output"), answer, "text", "crossword")

    def chosen(self, drafts: Sequence[tuple[int, Draft]]) -> set[int]:
        order = sorted((key_of(self.seed, draft.question), number) for number, draft in drafts)
        return {number for _, number in order[: self.sample]}
