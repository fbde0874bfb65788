"""Mathematics: NuminaMATH, MATH, Omni-MATH, OlympiadBench, AIME, TheoremQA; beside s1's sixteen, GSM8K; and the two
sets that s1 brought itself, s1-prob (examination problems in probability) and s1-teasers (quantitative interview
puzzles). `curate.sources.probability` and `curate.sources.teasers` make sets of the same kind."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from curate.grading.extract import last_box
from curate.normalise import canonical
from curate.sources.base import Draft, Info, RowError, Skip, Source, optional_text, text, texts_in
from curate.table_io import files


class NuminaMath(Source, frozen=True, kw_only=True, tag="NuminaMATH", dict=True):
    """All problems of the subset `aops_forum`; of the others those listed in the files `also` (column `problem`)."""

    info: ClassVar[Info] = Info(
        "NuminaMATH", "AI-MO/NuminaMath-CoT", "Apache-2.0", ("source", "problem", "solution"), 30_660
    )
    subsets: tuple[str, ...] = ("aops_forum",)
    """Values of the column `source` whose problems are all taken."""
    also: tuple[str, ...] = ()
    """Files of problems that are taken whatever their subset."""

    def local_files(self) -> list[Path]:
        return super().local_files() + files(self.also)

    @cached_property
    def listed(self) -> frozenset[str]:
        return frozenset(map(canonical, texts_in(self.also, "problem")))

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
        return Draft(
            text(row, "problem"),
            text(row, "solution"),
            optional_text(row, "answer"),
            meta={key: row.get(key) for key in ("subject", "level", "unique_id")},
        )


class OmniMath(Source, frozen=True, kw_only=True, tag="OmniMath"):
    """Omni-MATH: olympiad problems with a difficulty."""

    info: ClassVar[Info] = Info(
        "OmniMath", "KbsdJames/Omni-MATH", "Apache-2.0", ("problem", "solution", "answer"), 4_238, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            text(row, "problem"),
            text(row, "solution"),
            optional_text(row, "answer"),
            meta={key: row.get(key) for key in ("domain", "difficulty", "source")},
        )


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
    """Put a problem's context before its question."""

    def draft(self, row: Mapping[str, Any]) -> Draft:
        question, context = text(row, "question"), optional_text(row, "context")
        if self.context and context:
            question = f"{context}\n{question}"
        solutions, answers = row["solution"] or [], row["final_answer"] or []
        if not isinstance(solutions, (list, tuple)) or not solutions:
            raise RowError("column 'solution' holds no solution; a list of texts is needed")
        return Draft(
            question,
            str(solutions[0]),
            "; ".join(str(answer).strip().strip("$") for answer in answers) or None,
            cot_type="science" if "Physics" in str(row.get("subject")) else "math",
            meta={key: row.get(key) for key in ("subject", "subfield", "question_type", "answer_type", "unit")},
        )


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
    """Later years are left out."""

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        try:
            year = int(row["Year"])
        except (TypeError, ValueError) as error:
            raise RowError(f"column 'Year' is {row['Year']!r}; a number is needed") from error
        if year > self.last_year:
            return Skip("year", str(year))
        answer = optional_text(row, "Answer")
        return Draft(
            text(row, "Question"),
            answer,
            answer,
            meta={"year": year, "part": row.get("Part"), "problem": row.get("Problem Number")},
        )


class TheoremQA(Source, frozen=True, kw_only=True, tag="TheoremQA"):
    """Questions that need no picture."""

    info: ClassVar[Info] = Info(
        "TheoremQA", "TIGER-Lab/TheoremQA", "MIT", ("Question", "Answer", "Answer_type"), 747, ((None, "test"),)
    )

    def draft(self, row: Mapping[str, Any]) -> Draft | Skip:
        if row.get("Picture") not in (None, "", "NONE", "None"):
            return Skip("picture", "the question refers to a picture")
        answer, kind = optional_text(row, "Answer"), str(row["Answer_type"])
        if answer and kind == "option":
            answer = answer.strip("()").upper()
        types = {"integer": "number", "float": "number", "bool": "text", "option": "choice"}
        return Draft(
            text(row, "Question"),
            answer,
            answer,
            types.get(kind, "latex") if answer else "none",
            meta={"answer_type": kind},
        )


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
