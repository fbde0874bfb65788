"""The plans of a GPU day, run on this processor: from the command to the table, past parts that misbehave."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import report
from bench.gpu.files import GEMM_TABLE, MOST_FILES, RESULTS
from bench.gpu.plan import CELLS, PLANS
from bench.record import ROOT, read

FOLDER = Path(__file__).parent


def rehearse(card: str, how: str, tmp_path: Path) -> tuple[list[list[list[str]]], Path]:
    out = tmp_path / "out"
    arguments = [sys.executable, str(FOLDER / "rehearsal.py"), card, how, str(out), str(tmp_path / "state")]
    environment = os.environ | {"S1_COMMIT": "abc1234", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), out


def run_and_check(card: str, how: str, tmp_path: Path) -> str:
    """Run the plan twice, with a part of it killed, and check what holds of every day; the table of its results."""
    (first, second), out = rehearse(card, how, tmp_path)
    states = {part: state for part, state, _ in first}
    why = {part: words for part, _, words in first}
    expected = {"hangs": "out of time", "hungry": "failed", "litters": "done", "decode": "failed"}
    assert states == {part: expected.get(part, "done") for part in states}, why
    assert "memory" in why["hungry"] and "SIGKILL" in why["decode"]
    # the second call goes on where the killed part was, and leaves the others out
    ours = [part for part in states if part not in ("hangs", "hungry", "litters")]
    assert {part: state for part, state, _ in second} == dict.fromkeys(ours, "done before") | {"decode": "done"}
    lines = read(out / RESULTS)
    assert {line.commit for line in lines} == {"abc1234"} and all(line.versions["stand_in"] == card for line in lines)
    plain = {"model": "qwen2.5-32b", "engine": "s1-engine", "dtype": "bfloat16", "budget": None}
    cells = [
        f"{line.case['batch']}x{line.case['context']}"
        for line in lines
        if line.benchmark == "decode"
        and line.case.keys() - plain.keys() == {"batch", "context"}
        and plain.items() <= line.case.items()
    ]
    assert Counter(cells) == Counter(CELLS[card].bf16), "a cell is missing, or was measured twice"
    assert (out / GEMM_TABLE).exists()
    tuned = [line for line in lines if line.case.get("products") == GEMM_TABLE]
    assert len(tuned) == len(CELLS[card].tuned)
    files = [file for file in out.rglob("*") if file.is_file()]
    assert len(files) <= MOST_FILES and len(list((tmp_path / "state" / "left out").iterdir())) >= 1
    return report.table(lines, card)


def unfilled(rendered: str) -> list[str]:
    return [line for line in rendered.splitlines() if report.GAP_GPU in line]


@pytest.mark.timeout(400)
def test_a_day_in_small(tmp_path):
    rendered = run_and_check("H100", "some", tmp_path)
    assert rendered.startswith("A rehearsal: no figure here is of an H100.")
    assert [" ".join(line.split(" | ")[:2]) for line in unfilled(rendered)] == [
        "| H100, 32B decode, batch 1, context 1,024, int8 weights",
        "| H100, 32B decode, batch 64, context 1,024, fp8 keys and values",
        "| H100, 32B decode, batch 64, context 1,024, fp8 weights, keys and values",
        "| H100, 0.5B bf16 native forcing against a client loop, no prefix cache",
        "| H100, 0.5B training",
        "| H100, 7B, LoRA training",
        "| H100, 32B, three layers training",
        "| H100, 7B bf16 decode, batch 1, context 1,024: against transformers",
    ], "what is left to the whole day"
    figures = [line for line in rendered.splitlines() if "**" in line]
    assert len(figures) > 8 and all("| stand-in for H100: " in line and "`abc1234`" in line for line in figures)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("card", list(PLANS))
def test_the_whole_day(card, tmp_path):
    """Every row that the README has for a card is filled by some part of its plan."""
    assert unfilled(run_and_check(card, "whole", tmp_path)) == []
