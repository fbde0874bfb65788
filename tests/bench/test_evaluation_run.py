"""Runs on s1-nano: forks of one trace against independent runs, torn logs, mixed configurations."""

import json
import random

import msgspec
import pytest
from evaluation_data import SAME, SWEEP, make, rows_of

from bench import evaluate
from bench.evaluation import accuracy as report
from bench.evaluation import grade, outcomes, run, tables, tasks
from bench.evaluation.log import Key, key_of, read_rows
from engine import InputError


@pytest.mark.parametrize(
    ("methods", "fields", "least_ratio"),
    [
        (SWEEP, {}, 2.5),
        # answers cut by max_tokens, auto, a second extension string, and draws with a temperature
        (
            [{"method": "budget", "budgets": [12, 40, 100]}, {"method": "auto"}],
            {"answer_tokens": 9, "max_tokens": 160},
            1,
        ),
        (
            [{"method": "extensions", "extensions": [1, 3], "string": "Hmm", "budget": 100}, *SWEEP],
            {"temperature": 0.8, "samples": 2, "count": 4},
            1,
        ),
    ],
    ids=["greedy", "short", "sampled"],
)
def test_forks_of_a_trace_are_independent_runs(tmp_path, methods, fields, least_ratio):
    shared, apart = make(*methods, **fields), make(*methods, **fields, reuse=False)
    run.run(shared, tmp_path / "shared")
    run.run(apart, tmp_path / "apart")
    with_reuse, without = rows_of(tmp_path / "shared"), rows_of(tmp_path / "apart")
    assert set(without) == {key for key in with_reuse if not key.condition.startswith("trace ")}
    for key, row in without.items():
        assert {name: with_reuse[key][name] for name in SAME} == {name: row[name] for name in SAME}, key
    generated = sum(row["generated"] for row in with_reuse.values())
    independent = sum(row["generated"] for row in without.values())
    assert independent == sum(row["completion_tokens"] for row in without.values())
    assert independent >= least_ratio * generated
    grade.grade(tmp_path / "shared")
    tokens = outcomes.load(tmp_path / "shared").tokens["s1_nano"]
    assert (tokens.generated, tokens.independent) == (generated, independent)
    limits = {c.label: c.limit for c in shared.conditions()}
    assert all(row["thinking_tokens"] <= limits[key.condition] for key, row in without.items())


def finished(folder):
    """The report's bytes and the log's keys, of a graded run."""
    grade.grade(folder)
    found = report.report(outcomes.load(folder), "s1-engine", "answer")
    keys = [key_of(row) for row in read_rows(folder)]
    return json.dumps(found).encode(), tables.markdown(found).encode(), keys


TORN = make(*SWEEP, {"method": "parallel", "samples": 2, "budgets": [8]}, count=32)


def test_a_log_torn_at_any_byte_goes_on(tmp_path, capsys):
    folder, source = tmp_path / "run", random.Random(5)
    run.run(TORN, folder)
    whole = finished(folder)
    log = folder / "samples.jsonl"
    for _ in range(2):
        data = log.read_bytes()
        log.write_bytes(data[: source.randrange(len(data) // 2, len(data))])
        run.run(TORN, folder)
    assert "the last row is torn and runs again" in capsys.readouterr().err
    as_json, as_markdown, keys = finished(folder)
    assert (as_json, as_markdown) == whole[:2] and len(keys) == len(set(keys)) and set(keys) == set(whole[2])
    run.run(TORN, folder)
    assert "nothing to run" in capsys.readouterr().err


def test_what_is_no_log_of_this_run_is_refused(tmp_path):
    small = make({"method": "budget", "budgets": [8]}, count=4)
    folder = tmp_path / "run"
    run.run(small, folder)
    for other, where in (
        (make({"method": "budget", "budgets": [9]}, count=4), r"grid.methods\[0\].budgets\[0\] 8, and this one has 9"),
        (make({"method": "budget", "budgets": [8]}, count=5), r"grid.tasks\[0\].count 4"),
        (make({"method": "budget", "budgets": [8]}, count=4, seed=1), "grid.seed 0"),
    ):
        with pytest.raises(InputError, match=where):
            run.run(other, folder)
    log = folder / "samples.jsonl"
    whole = log.read_bytes()
    row = json.loads(whole.splitlines()[0])
    for broken, message in (
        (whole + whole.splitlines(keepends=True)[0], ":5: .*stands there twice"),
        (whole + json.dumps({**row, "sample": 9, "config": "other"}).encode() + b"\n", "is of another run, other"),
        (b"no row\n" + whole, ":1: is no line"),
    ):
        log.write_bytes(broken)
        with pytest.raises(InputError, match=message):
            run.run(small, folder)
    log.write_bytes(whole)
    (folder / "run.json").unlink()
    with pytest.raises(InputError, match=r"samples and no run\.json"):
        run.run(small, folder)
    (folder / "run.json").write_text("[" * 5_000)
    with pytest.raises(InputError, match=r"run\.json: no JSON"):
        run.run(small, folder)
    (folder / "run.json").write_text('{"identity": {}}')
    with pytest.raises(InputError, match=r"run\.json: does not say what was run"):
        run.run(small, folder)


def test_interrupt_and_bad_input_have_their_exit_codes(tmp_path, capsys):
    assert evaluate.main(["status", str(tmp_path)]) == 2
    assert "no run is there" in capsys.readouterr().err
    file = tmp_path / "g.yaml"
    file.write_text(json.dumps(msgspec.to_builtins(make(count=2))))
    assert evaluate.main([str(file), "--out", str(tmp_path / "run"), "--count", "3"]) == 2
    assert "--count is given with" in capsys.readouterr().err
    for document, why in ((tmp_path / "none.md", "give an existing document"), (file, "has no place for the tables")):
        out = tmp_path / "unstarted"
        assert evaluate.main([str(file), "--out", str(out), "--write", str(document)]) == 2
        assert why in capsys.readouterr().err and not out.exists()
    assert evaluate.main(["--model", str(tmp_path / "nothing"), "--count", "8"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_keys_are_what_a_grid_asks_for():
    small = make({"method": "parallel", "samples": 2, "budgets": [8]}, count=2)
    keys = list(run.wanted([tasks.load(s) for s in small.tasks], small.conditions()))
    assert keys[0] == Key("s1_nano", "heldout-11-0", "2 samples, budget 8", 0) and len(keys) == 4
