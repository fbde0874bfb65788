"""Runs `tests/kernels/interpreter` in a process of its own: Triton picks its interpreter when a kernel is defined."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PARTS = [
    ("sampler_kernel", "tuner"),
    ("attention_kernels", "gemm_kernel", "row_kernels", "offsets", "thinking_kernel"),
    ("folded_layers",),
]
"""Processes that take about as long; each more costs seconds of imports."""


def test_every_part_is_run():
    files = (ROOT / "tests" / "kernels" / "interpreter").glob("test_*.py")
    assert {file.stem.removeprefix("test_") for file in files} == {part for parts in PARTS for part in parts}


def interpreted(*arguments: str) -> str:
    """What pytest prints with every kernel in the interpreter; it has to pass."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "S1_KERNELS": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return run.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the same tests run on it for real")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("parts", PARTS, ids=" ".join)
def test_the_kernels_equal_their_definitions_in_the_interpreter(parts):
    printed = interpreted("-m", "not slow", *(f"tests/kernels/interpreter/test_{part}.py" for part in parts))
    assert " passed" in printed and "skipped" not in printed


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the same tests run on it for real")
@pytest.mark.timeout(900)
def test_the_slow_ones_too():
    printed = interpreted("-m", "slow", "tests/kernels/interpreter")
    assert " passed" in printed and "skipped" not in printed


CONFORMANCE = [
    "test_rules_budget.py::test_rule_05_nothing_adds_to_T_at_the_budget[0-]",
    "test_rules_budget.py::test_rule_05_nothing_adds_to_T_at_the_budget[2-ab]",
]
"""Whole requests through the engine with every kernel interpreted; each token costs a tenth of a second, so few."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the whole conformance suite can run on it")
@pytest.mark.timeout(900)
def test_the_engine_conforms_with_kernels_on():
    assert f"{len(CONFORMANCE)} passed" in interpreted(*(f"tests/conformance/{name}" for name in CONFORMANCE))
