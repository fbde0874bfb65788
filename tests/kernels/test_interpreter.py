"""Runs `tests/kernels/interpreter` in a process of its own: Triton picks its interpreter when a kernel is defined."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the same tests run on it for real")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["row", "attention", "gemm", "sampler", "thinking", "offsets"])
def test_the_kernels_equal_their_definitions_in_the_interpreter(part):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "S1_KERNELS": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    folder = Path("tests/kernels/interpreter")
    (path,) = [f for f in sorted((ROOT / folder).glob("test_*.py")) if f.name.startswith(f"test_{part}")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(folder / path.name),
    ]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout
