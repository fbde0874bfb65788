"""The blind judge: both ways round, kept, undecided where the two disagree; runs against each other."""

import json
from pathlib import Path

import pytest

from bench import evaluate
from bench.evaluation import compare, grade, grid, run
from bench.evaluation.judge import Judge
from bench.evaluation.log import read_rows
from curate.grading.grade import AnswerKind, Grader, Item
from engine import InputError

MODEL = str(Path(__file__).parents[2] / "models" / "s1-nano")


def test_a_judge_decides_words_and_is_asked_both_ways_once(tmp_path):
    asked = []

    def ask(message):
        asked.append(message)
        first, second = (part.split("\n")[1] for part in message.split("Answer ")[1:3])
        if "biased" in message:
            return "yes" if first.startswith("gold") else "No."
        return "Yes." if {first, second} == {"the river Rhine", "Rhine river in Germany"} else "no"

    items = [
        Item("Rhine river in Germany", "the river Rhine", AnswerKind.TEXT, "Which river?"),
        Item("the Danube stream", "the river Rhine", AnswerKind.TEXT, "Which river?"),
        Item("biased words here", "gold words here", AnswerKind.TEXT, "Which?"),
        Item("THE river Rhine.", "the river Rhine", AnswerKind.TEXT, "Which river?"),
    ]
    judge = Judge("pinned", ask, tmp_path / "judge.jsonl")
    with Grader(judge=judge.grade) as grader:
        grades = grader.grade(items)
    assert [g.correct for g in grades] == [True, False, None, True]
    assert [g.rule for g in grades][:3] == ["judge", "judge", "judge_undecided"] and len(asked) == 6
    assert "reference" not in asked[0] and "correct" not in asked[0]  # it is not told which is which
    again = Judge("pinned", ask, tmp_path / "judge.jsonl")
    with Grader(judge=again.grade) as grader:
        assert [g.correct for g in grader.grade(items)] == [True, False, None, True]
    assert len(asked) == 6
    other = Judge("another", ask, tmp_path / "judge.jsonl")
    assert other.known == {}
    without = Grader()
    assert without.grade(items[:1])[0].correct is None


def test_a_judge_needs_a_name(tmp_path, capsys):
    assert evaluate.main(["grade", str(tmp_path), "--judge-url", "http://127.0.0.1:9/v1"]) == 2
    assert "--judge-model" in capsys.readouterr().err


def test_runs_are_compared_on_the_problems_they_share(tmp_path):
    def made(name, **fields):
        what = grid.from_values(
            {
                "model": MODEL,
                "tasks": [{"name": "s1_nano", "count": 16, "seed": 3}],
                "answer_tokens": 48,
                "methods": [{"method": "budget", "budgets": [64]}],
                "engine": {"device": "cpu"},
                **fields,
            }
        )
        run.run(what, tmp_path / name)
        grade.grade(tmp_path / name)
        return tmp_path / name

    a, b = made("a"), made("b", prompt="boxed")
    table = compare.text(a, b).splitlines()
    assert len(table) == 5 and table[4].startswith("| s1_nano | budget 64 | 16 |")
    assert "| +0.0 | +0.0 to +0.0 | 1 |" in compare.text(a, a)
    hashes = [{row["prompt_hash"] for row in read_rows(folder)} for folder in (a, b)]
    assert not hashes[0] & hashes[1]  # the same question, another prompt
    other = made("c", methods=[{"method": "budget", "budgets": [32]}])
    with pytest.raises(InputError, match="share no problem"):
        compare.text(a, other)


def test_grading_notices_changed_data(tmp_path):
    what = grid.from_values(
        {
            "model": MODEL,
            "tasks": [{"name": "s1_nano", "count": 2}],
            "answer_tokens": 48,
            "methods": [{"method": "budget", "budgets": [8]}],
            "engine": {"device": "cpu"},
        }
    )
    run.run(what, tmp_path)
    about = json.loads((tmp_path / "run.json").read_text())
    about["identity"]["tasks"]["s1_nano"] = "0" * 64
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="was run on data with SHA-256 000"):
        grade.grade(tmp_path)
