"""Mathematics: NuminaMATH, MATH, Omni-MATH, OlympiadBench, AIME, TheoremQA and, beside s1's sixteen, GSM8K."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from curate.grading.answer_text import last_box
from curate.normalise import canonical
from curate.sources.base import Draft, Info, RowError, Skip, Source, optional_text, text
from curate.table_io import files, read_rows
from engine.rows_file import BadRow


class NuminaMath(Source, frozen=True, kw_only=True, tag="NuminaMATH", dict=True):
    """All problems of the subset `aops_forum`; of the others those listed in the files `also` (column `problem`)."""

    info: ClassVar[Info] = Info(
        "NuminaMATH", "AI-MO/NuminaMath-CoT", "Apache-2.0", ("source", "problem", "solution"), 30_660
    )
    subsets: tuple[str, ...] = ("aops_forum",)
    also: tuple[str, ...] = ()

    def local_files(self) -> list[Path]:
        return super().local_files() + files(self.also)

    @cached_property
    def listed(self) -> frozenset[str]:
        rows = (row for path in files(self.also) for _, row in read_rows(path))
        return frozenset(canonical(text(row, "problem")) for row in rows if not isinstance(row, BadRow))

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        problem, subset = text(row, "problem"), text(row, "source")
        if subset not in self.subsets and canonical(problem) not in self.listed:
            return Skip("subset", subset)
        solution = text(row, "solution")
        return Draft(problem, solution, last_box(solution), meta={"subset": subset})


class Math(Source, frozen=True, kw_only=True, tag="MATH"):
    """The 12,000 training problems of MATH in the split that leaves MATH500 out."""

    info: ClassVar[Info] = Info("MATH", "simplescaling/openaimath", "MIT", ("problem", "solution", "answer"), 11_999)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        meta = {key: row.get(key) for key in ("subject", "level", "unique_id")}
        return Draft(text(row, "problem"), text(row, "solution"), optional_text(row, "answer"), meta=meta)


class OmniMath(Source, frozen=True, kw_only=True, tag="OmniMath"):
    info: ClassVar[Info] = Info(
        "OmniMath", "KbsdJames/Omni-MATH", "Apache-2.0", ("problem", "solution", "answer"), 4_238, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        meta = {key: row.get(key) for key in ("domain", "difficulty", "source")}
        return Draft(text(row, "problem"), text(row, "solution"), optional_text(row, "answer"), meta=meta)


class OlympiadBench(Source, frozen=True, kw_only=True, tag="OlympiadBench"):
    """English, text only, competition; open-ended and proofs, mathematics and physics. The first solution counts.

    s1 forgot `context`, the text that a question refers to; here it stands before the question.
    """

    info: ClassVar[Info] = Info(
        "OlympiadBench",
        "Hothan/OlympiadBench",
        "Apache-2.0",
        ("question", "solution", "final_answer"),
        896,
        tuple((f"{kind}_TO_{subject}_en_COMP", "train") for kind in ("OE", "TP") for subject in ("maths", "physics")),
        only={"language": ("English", "en"), "modality": ("Text-only",)},
    )
    context: bool = True

    def draft(self, row: Mapping[str, Any]) -> Draft:
        question, context = text(row, "question"), optional_text(row, "context")
        if self.context and context:
            question = f"{context}\n{question}"
        solutions, answers = row["solution"] or [], row["final_answer"] or []
        if not isinstance(solutions, (list, tuple)) or not solutions:
            raise RowError("column 'solution' holds no solution; a list of texts is needed")
        answer = "; ".join(str(a).strip().strip("$") for a in answers) or None
        meta = {key: row.get(key) for key in ("subject", "subfield", "question_type", "answer_type", "unit")}
        cot_type = "science" if "Physics" in str(row.get("subject")) else "math"
        return Draft(question, str(solutions[0]), answer, cot_type=cot_type, meta=meta)


class AIME(Source, frozen=True, kw_only=True, tag="AIME"):
    """The paper keeps 1983 to 2021 and holds 2022 on for evaluation (the original's code keeps 2022 too)."""

    info: ClassVar[Info] = Info(
        "AIME",
        "qq8933/AIME_1983_2024",
        "see the Mathematical Association of America",
        ("Year", "Question", "Answer"),
        890,
    )
    last_year: int = 2021

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        try:
            year = int(row["Year"])
        except (TypeError, ValueError) as error:
            raise RowError(f"column 'Year' is {row['Year']!r}; a number is needed") from error
        if year > self.last_year:
            return Skip("year", str(year))
        answer = optional_text(row, "Answer")
        meta = {"year": year, "part": row.get("Part"), "problem": row.get("Problem Number")}
        return Draft(text(row, "Question"), answer, answer, meta=meta)


class TheoremQA(Source, frozen=True, kw_only=True, tag="TheoremQA"):
    """Questions that need no picture."""

    info: ClassVar[Info] = Info(
        "TheoremQA", "TIGER-Lab/TheoremQA", "MIT", ("Question", "Answer", "Answer_type"), 747, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        if row.get("Picture") not in (None, "", "NONE", "None"):
            return Skip("picture", "the question refers to a picture")
        answer, kind = optional_text(row, "Answer"), str(row["Answer_type"])
        types = {"integer": "number", "float": "number", "bool": "text", "option": "choice"}
        answer_type = types.get(kind, "latex") if answer else "none"
        if answer and answer_type == "choice":
            answer = answer.strip("()").upper()
        return Draft(text(row, "Question"), answer, answer, answer_type, meta={"answer_type": kind})


class GSM8K(Source, frozen=True, kw_only=True, tag="GSM8K"):
    """Grade-school problems; the number stands after "####", calculator marks <<...>> are taken out of the solution."""

    info: ClassVar[Info] = Info("GSM8K", "openai/gsm8k", "MIT", ("question", "answer"), None, (("main", "train"),))

    def draft(self, row: Mapping[str, Any]) -> Draft:
        solution, mark, answer = text(row, "answer").rpartition("####")
        if not mark or not answer.strip():
            raise RowError("column 'answer' has no number after '####'")
        return Draft(
            text(row, "question"), re.sub(r"<<[^>]*>>", "", solution).strip(), answer.strip().replace(",", ""), "number"
        )
