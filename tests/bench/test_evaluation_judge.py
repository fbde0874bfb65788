"""Grading with a judge, runs against each other, and data that is no longer what was run."""

import json
from pathlib import Path

import pytest

from bench import evaluate
from bench.evaluation import compare, grade, grid, run
from bench.evaluation.log import read_rows
from engine import InputError

MODEL = str(Path(__file__).parents[2] / "models" / "s1-nano")


def test_a_judge_needs_a_name(tmp_path, capsys):
    assert evaluate.main(["grade", str(tmp_path), "--judge-url", "http://127.0.0.1:9/v1"]) == 2
    assert "--judge-model" in capsys.readouterr().err


def test_a_judge_is_opened_for_a_run_and_keeps_its_verdicts_there(tmp_path, capsys):
    judge = ["--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "pinned"]
    assert evaluate.main(["grade", str(tmp_path / "nowhere"), *judge]) == 2
    assert "no run is there" in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
    what = {"model": MODEL, "tasks": [{"name": "s1_nano", "count": 2}], "engine": {"device": "cpu"}}
    run.run(grid.from_values({**what, "methods": [{"method": "budget", "budgets": [8]}]}), tmp_path / "run")
    assert evaluate.main(["grade", str(tmp_path / "run"), *judge]) == 0  # families are told by rule: nothing is asked
    head = json.loads((tmp_path / "run" / "grades.jsonl").read_text().splitlines()[0])
    assert head["judge"] == "pinned" and (tmp_path / "run" / "judge.sqlite").is_file()


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
    assert len(table) == 7 and table[4].startswith("| s1_nano | budget 64 | 16 |")
    assert table[6] == "Not asked alike: prompt 's1' / 'boxed'."
    assert compare.text(a, a).endswith("| +0.0 | +0.0 to +0.0 | 1 |")
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
