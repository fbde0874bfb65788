"""Statistics against scipy, and the evaluation's rows against the engine's own outputs on a random checkpoint."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from bench.evaluate import Condition, fell, run, table
from bench.record import read
from bench.statistics import discordant, sign_test, wilson
from bench.tasks import S1_NANO
from curate.families import check
from curate.nano_build import write_base
from engine import Engine
from train.architecture import Architecture
from train.model import Decoder


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (645, 1000), (1, 3)])
def test_wilson_is_scipys(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("right", "count"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(right, count):
    with pytest.raises(ValueError, match="count"):
        wilson(right, count)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (12, 3), (3, 12), (40, 41)])
def test_sign_test_is_scipys(gained, lost):
    changes = gained + lost
    expected = binomtest(lost, changes, alternative="greater").pvalue if changes else 1.0
    assert sign_test(gained, lost) == pytest.approx(expected)


def test_discordant_pairs():
    assert discordant([True, True, False, False], [True, False, True, True]) == (2, 1)
    with pytest.raises(ValueError):
        discordant([True], [])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Tokenizer and shape of s1-nano, random weights."""
    folder = tmp_path_factory.mktemp("nano")
    write_base(folder, seed=0)
    torch.manual_seed(0)
    model = Decoder(Architecture.load(folder))
    weights = {}
    for name, parameter in model.named_parameters():
        ones = name.endswith("norm.weight")
        weights[name] = torch.ones_like(parameter) if ones else torch.randn_like(parameter) * 0.1
    save_file(weights, str(folder / "model.safetensors"))
    return folder


def test_rows_are_the_engines_outputs(checkpoint):
    questions = S1_NANO.draw(24, 7)
    with Engine(str(checkpoint), device="cpu", dtype="float32", kv_cache_tokens=8192) as engine:
        conditions = [Condition("budget", 8, 0), Condition("budget", 16, 0), Condition("waits", 32, 2)]
        results = [run(engine, questions, condition, 16) for condition in conditions]
    for (row, outputs), condition in zip(results, conditions, strict=True):
        assert row.control == 1.0 and max(row.thinking) <= condition.budget
        assert row.thinking == tuple(o.outputs[0].thinking.tokens for o in outputs)
        assert row.right == tuple(
            check(q.group, q.prompt, o.outputs[0].answer) for q, o in zip(questions, outputs, strict=True)
        )
        assert sum(row.by_group().values()) / len(row.by_group()) == pytest.approx(row.accuracy)
    rows = [row for row, _ in results]
    assert fell(None, rows[0]) is None and fell(rows[1], rows[2]) is None
    assert fell(rows[0], rows[1]) == sign_test(*discordant(rows[0].right, rows[1].right))
    lines = table(rows).splitlines()
    assert len(lines) == 5 and lines[2].startswith("| budget 8 |") and lines[4].startswith("| 2 Waits |")


def test_command_prints_the_table_and_writes_records(checkpoint, tmp_path):
    results, samples, figure = tmp_path / "results.jsonl", tmp_path / "samples.jsonl", tmp_path / "figure.png"
    command = [
        sys.executable, "-m", "bench.evaluate", "--task", "s1_nano", "--model", str(checkpoint), "--count", "16",
        "--budgets", "4", "8", "--waits", "1", "--results", str(results), "--samples", str(samples),
        "--figure", str(figure),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "| budget 4 |" in done.stdout and "| 1 Wait |" in done.stdout and "16 held-out questions" in done.stdout
    records = read(results)
    assert [(r.case["budget"], r.case["waits"]) for r in records] == [(4, 0), (8, 0), (1024, 1)]
    assert all(r.figures["control"] == 1.0 for r in records)
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(lines) == 48
    assert sum(line["right"] for line in lines[:16]) / 16 == pytest.approx(records[0].figures["accuracy"], abs=1e-3)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_command_refuses_a_missing_model(tmp_path):
    command = [sys.executable, "-m", "bench.evaluate", "--model", str(tmp_path / "nothing"), "--count", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and "nothing" in done.stderr and "Traceback" not in done.stderr
