"""The sciences: OlympicArena, JEEBench, GPQA, SciEval; and programming: USACO and LiveCodeBench, neither of which has a
solution in text, so no attempt at them can be graded here."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from curate.sources.base import (
    Draft,
    Info,
    RowError,
    Seed,
    Skip,
    Source,
    joined_text,
    key_of,
    optional_text,
    options_text,
    text,
    texts_in,
)
from curate.table_io import files

SUBJECTS = ("Astronomy", "Biology", "CS", "Chemistry", "Geography", "Math", "Physics")


class OlympicArena(Source, frozen=True, kw_only=True, tag="OlympicArena"):
    """Seven subjects, test and val, English and text only. Only val holds solutions."""

    info: ClassVar[Info] = Info(
        "OlympicArena",
        "GAIR/OlympicArena",
        "CC-BY-NC-SA-4.0",
        ("problem", "subject", "language", "modality"),
        4_250,
        tuple((subject, split) for subject in SUBJECTS for split in ("test", "val")),
        only={"language": ("EN",), "modality": ("text-only",)},
    )

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        if row.get("figure_exists"):
            return Skip("modality", str(row["modality"]))
        answer, kind = joined_text(row, "answer"), str(row.get("answer_type") or "")
        types = {"SC": "choice", "MC": "choice", "CODE": "code", "TF": "text", "OT": "text"}
        subject = str(row["subject"])
        return Draft(
            text(row, "problem"),
            optional_text(row, "solution"),
            answer,
            types.get(kind, "") if answer else "none",
            {"Math": "math", "CS": "coding"}.get(subject, "science"),
            meta={"subject": subject, "answer_type": kind, "id": row.get("id")},
        )


class JEEBench(Source, frozen=True, kw_only=True, tag="JEEBench"):
    """JEEBench: JEE Advanced in physics, chemistry and mathematics."""

    info: ClassVar[Info] = Info(
        "JEEBench", "daman1209arora/jeebench", "MIT", ("question", "gold", "type", "subject"), 515, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        gold, kind, subject = optional_text(row, "gold"), str(row["type"]), str(row["subject"])
        return Draft(
            text(row, "question"),
            gold,
            gold,
            "choice" if gold and kind.startswith("MCQ") else "",
            "math" if subject == "math" else "science",
            meta={"subject": subject, "type": kind},
        )


class GPQA(Source, frozen=True, kw_only=True, tag="GPQA", dict=True):
    """The extended set without the questions of the diamond set (files `diamond`, told by "Record ID").

    Options are shuffled with a generator that the seed and the record set, so no order of rows matters; the letter is
    appended to the explanation. GPQA's authors ask that its text be published nowhere.
    """

    info: ClassVar[Info] = Info(
        "GPQA",
        "Idavidrein/gpqa",
        "CC-BY-4.0",
        ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Record ID"),
        348,
        (("gpqa_extended", "train"),),
        private=True,
    )
    diamond: tuple[str, ...] = ()
    """Files of the diamond set, whose questions are left out."""
    seed: Seed = 42
    """Which order the options are shuffled into."""

    def local_files(self) -> list[Path]:
        return super().local_files() + files(self.diamond)

    @cached_property
    def held(self) -> frozenset[str]:
        return frozenset(texts_in(self.diamond, "Record ID"))

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        record = text(row, "Record ID")
        if record in self.held:
            return Skip("diamond", record)
        correct = text(row, "Correct Answer")
        options = [correct, *(text(row, f"Incorrect Answer {i}") for i in (1, 2, 3))]
        Random(key_of(self.seed, record)).shuffle(options)
        letter = "ABCD"[options.index(correct)]
        return Draft(
            f"{text(row, 'Question')}\n{options_text(options)}",
            f"{optional_text(row, 'Explanation') or ''}\nAnswer: {letter}".strip(),
            letter,
            "choice",
            "science",
            meta={"id": record, "subdomain": row.get("Subdomain")},
        )


class SciEval(Source, frozen=True, kw_only=True, tag="SciEval"):
    """Questions with an answer, `sample` of them spread evenly over tasks and topics."""

    info: ClassVar[Info] = Info(
        "SciEval",
        "OpenDFM/SciEval",
        "MIT",
        ("question", "answer", "task_name", "topic"),
        227,
        ((None, "test"), (None, "validation")),
    )
    sample: int = 250
    """How many questions."""
    seed: Seed = 42
    """Which questions of a task and topic are chosen."""

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        answer = joined_text(row, "answer")
        if answer is None:
            return Skip("no_answer", "the split keeps its answers back")
        if row.get("type") not in (None, "multiple-choice", "filling", "judge"):
            raise RowError(f"column 'type' is {row['type']!r}; multiple-choice, filling or judge is known")
        return Draft(
            text(row, "question"),
            answer,
            answer,
            {"multiple-choice": "choice", "judge": "text"}.get(str(row.get("type")), ""),
            "science",
            meta={"task": row["task_name"], "topic": row["topic"], "category": row.get("category")},
        )

    def chosen(self, drafts: Sequence[tuple[int, Draft]]) -> set[int]:
        """Groups of (task, topic) in turn, within a group in seeded order."""
        keyed = sorted(
            (str(draft.meta["task"]), str(draft.meta["topic"]), key_of(self.seed, draft.question), number)
            for number, draft in drafts
        )
        groups = groupby(keyed, key=lambda row: row[:2])
        turns = sorted((place, group, row[-1]) for group, rows in groups for place, row in enumerate(rows))
        return {number for _, _, number in turns[: self.sample]}


class USACO(Source, frozen=True, kw_only=True, tag="USACO"):
    """USACO: contest problems, whose answers are programs."""

    info: ClassVar[Info] = Info(
        "USACO", "codegenning/usacobench_formatted", "unknown", ("question",), 519, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(text(row, "question"), cot_type="coding")


class LiveCodeBench(Source, frozen=True, kw_only=True, tag="LiveCodeBench"):
    """Releases v1 to v3 of code_generation_lite (test.jsonl, test2.jsonl, test3.jsonl), difficulty "hard" only.

    The hub's copy loads by a script, which is never run here: give the files by `path`.
    """

    info: ClassVar[Info] = Info(
        "LiveCodeBench",
        "livecodebench/code_generation_lite",
        "CC",
        ("question_content", "difficulty"),
        151,
        (("release_v3", "test"),),
        only={"difficulty": ("hard",)},
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        parts = (text(row, "question_content"), optional_text(row, "starter_code"))
        return Draft(
            "\n\n".join(filter(None, parts)),
            cot_type="coding",
            meta={"id": row.get("question_id"), "platform": row.get("platform")},
        )
