"""The grader on real reference answers: GSM8K's test split and AGIEval's AQuA."""

import json
import os
from pathlib import Path

import pytest

from curate.grading.grade import AnswerKind, Grader, Item

DATA = Path(os.environ.get("S1_DATA", Path(__file__).parents[3] / "shared/data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA} (set S1_DATA)")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def test_gsm8k_gold_against_itself_and_its_neighbour():
    solutions = [row["answer"] for row in rows("gsm8k/test.jsonl")]
    finals = [solution.split("#### ")[1] for solution in solutions]
    shifted = finals[1:] + finals[:1]
    with Grader() as grader:
        for kind in (AnswerKind.NUMBER, AnswerKind.AUTO):
            pairs = zip(finals, solutions, strict=True)
            same = [Item(f"So it is.\nAnswer: {final}", gold, kind) for final, gold in pairs]
            assert all(grade.correct for grade in grader.grade(same))
        grades = grader.grade([Item(a, b, AnswerKind.NUMBER) for a, b in zip(finals, shifted, strict=True)])
        values = [(a.replace(",", ""), b.replace(",", "")) for a, b in zip(finals, shifted, strict=True)]
        assert [grade.correct for grade in grades] == [float(a) == float(b) for a, b in values]
        assert grader.pids == (), "plain numbers need no process"


def test_aqua_by_letter_and_by_the_text_of_the_option():
    right, wrong = [], []
    for row in rows("agieval/aqua-rat.jsonl"):
        prompt = "\n".join([row["question"], *row["options"]])
        at = "ABCDE".index(row["label"])
        other = row["options"][(at + 1) % 5]
        label = f"I choose ({row['label']}), of course, as has been shown."
        for text in (row["options"][at], row["options"][at][3:], row["label"], label):
            right.append(Item(text, row["label"], AnswerKind.CHOICE, prompt))
        if other[3:] != row["options"][at][3:]:
            wrong.append(Item(f"Answer: {other}", row["label"], AnswerKind.CHOICE, prompt))
    with Grader() as grader:
        missed = [item for item, grade in zip(right, grader.grade(right), strict=True) if not grade.correct]
        assert not missed, missed[:3]
        assert not any(grade.correct for grade in grader.grade(wrong))
