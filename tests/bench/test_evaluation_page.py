"""The samples page: what decides that an answer is right stands beside the question, and every sample says what it
answered."""

import json
import re
from types import SimpleNamespace

import pytest

from bench.evaluation import browse, grade, grid, run
from bench.evaluation.grade import Graded
from bench.evaluation.tasks import Problem
from curate.grading.grade import AnswerKind
from tests.bench.evaluation_data import ENGINE, MODEL
from tests.test_pages import SAMPLES, render


@pytest.mark.parametrize(
    ("graded", "told"),
    [
        (Graded(True, "answer.boxed/number", "7", "="), "answer '7' by answer.boxed/number"),
        (Graded(False, "no_answer", None, None), "no answer"),
        (Graded(False, "never_left_thinking", None, None), "never left thinking"),
        (Graded(False, "error", None, None, "HTTP 500"), "error: HTTP 500"),
        (Graded(None, "s1.whole/string", None, None), "no answer by s1.whole/string"),
    ],
)
def test_a_sample_says_once_what_it_answered(graded, told):
    assert browse.said(graded) == told


def test_what_decides_is_told_where_it_is_not_the_reference():
    kinds = {AnswerKind.FAMILY: "countdown4", AnswerKind.PYTHON: "mine.right", AnswerKind.NUMBER: ""}
    problems = [Problem("p", "", "?", None, kind, family=name) for kind, name in kinds.items()]
    told = ["the checker of the family countdown4, from the question alone", "the function mine.right", ""]
    assert [browse.judged_by(problem) for problem in problems] == told


def test_reference_answers_stand_beside_their_questions(tmp_path):
    rows = [{"question": f"What is {a} and 20?", "answer": f"{a + 20}"} for a in (1, 2)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"name": "mine", "path": str(tmp_path / "mine.jsonl")}, {"name": "s1_nano", "count": 1, "seed": 3}]
    methods = [{"method": "budget", "budgets": [0]}]
    values = {"model": MODEL, "tasks": tasks, "methods": methods, "answer_tokens": 8, "engine": ENGINE}
    run.run(grid.from_values(values), tmp_path / "run")
    grade.grade(tmp_path / "run")
    page = browse.write_page(tmp_path / "run").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("</style>")[2]))
    for row in rows:
        assert f"{row['question']} reference answer {row['answer']}" in text
    assert "no reference answer judged by the checker of the family" in text
    assert "by no_answer" not in text and "by never" not in text


def test_a_private_task_shows_neither_question_nor_reference():
    problem = SimpleNamespace(id="p", group="", reference="secret")
    page = render(
        SAMPLES,
        name="run",
        problems=1,
        conditions=[],
        tasks=[SimpleNamespace(name="gpqa", private=True, problems=[problem])],
        samples={("gpqa", "p"): []},
        question_text=lambda problem: "secret",
        judged_by=browse.judged_by,
    )
    assert b"secret" not in page and b"are not kept" in page
