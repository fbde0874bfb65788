"""Programming: USACO and LiveCodeBench. Neither has a solution in text, so no attempt at them can be graded here."""

from collections.abc import Mapping
from typing import Any, ClassVar

from curate.sources.base import Draft, Info, Source, optional_text, text


class USACO(Source, frozen=True, kw_only=True, tag="USACO"):
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
        meta = {"id": row.get("question_id"), "platform": row.get("platform")}
        return Draft("\n\n".join(filter(None, parts)), cot_type="coding", meta=meta)
