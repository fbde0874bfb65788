"""Every kernel compiled ahead of time for sm_90 in production configurations, and its machine code read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.aot import SHARED_LIMIT, Case, Compiled, compile_case
from kernels.production import production_cases

ROOT = Path(__file__).parents[2]
CASES = {case.name: case for case in production_cases()}
EVERY_KERNEL = [
    "rms_norm+add 5120", "all_reduce_norm 5120 x 8", "silu_mul 27648", "embedding 152064x5120", "rope_append bf16",
    "decode 32B batch 64 bf16", "decode 32B batch 64 fp8e4nv", "prefill 32B batch 64 bf16", "gemm gate_up 16",
    "gemm down 64", "sample filtered: tiles", "sample filtered: draw", "thinking_step all",
]  # fmt: skip


def check(case: Case, compiled: Compiled) -> None:
    """No spills, shared memory within a block's limit, and a tensor-core instruction where there is a dot."""
    assert compiled.stack == 0 and compiled.instructions["LDL"] == compiled.instructions["STL"] == 0, compiled
    assert compiled.shared <= SHARED_LIMIT, compiled
    assert 0 < compiled.registers <= 255 and compiled.warps_per_sm > 0, compiled
    if case.dot_rows >= 64:
        assert compiled.instructions["HGMMA"] > 0, compiled
    elif case.dot_rows:
        assert compiled.instructions["HMMA"] > 0, compiled
    else:
        assert compiled.instructions["HGMMA"] == compiled.instructions["HMMA"] == 0, compiled


@pytest.mark.parametrize("name", EVERY_KERNEL)
def test_compiles_for_sm_90(name):
    check(CASES[name], compile_case(CASES[name]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in CASES if name not in EVERY_KERNEL])
def test_compiles_for_sm_90_in_every_configuration(name):
    check(CASES[name], compile_case(CASES[name]))


def test_parts_of_other_ranks_are_read_in_16_bytes():
    """Their addresses come out of a table, so the compiler has to be told that they are aligned."""
    for ranks in (2, 8):
        compiled = compile_case(CASES[f"all_reduce_norm 5120 x {ranks}"])
        per_thread = 8192 // (32 * compiled.num_warps) // 8
        assert compiled.instructions["LDG.E.128"] == (ranks + 2) * per_thread, compiled  # and residual, and weight


def test_a_kernel_that_spills_is_seen():
    """The check itself: 32,768 values in the registers of one warp."""
    case = CASES["silu_mul 27648"]
    spilling = {**case.constants, "BLOCK": 32768, "num_warps": 1}
    with pytest.raises(AssertionError, match="stack"):
        check(case, compile_case(Case("spills", case.kernel, case.arguments, spilling)))


@pytest.mark.timeout(900)
def test_compiles_with_the_other_triton():
    """With a second Triton on S1_OTHER_TRITON (a folder made by `pip install --target`), in a process of its own."""
    other = os.environ.get("S1_OTHER_TRITON")
    if not other:
        pytest.skip("S1_OTHER_TRITON names no second Triton (pip install --target DIR triton==3.6.0)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([other, str(ROOT)])}
    environment.pop("S1_OTHER_TRITON")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_aot.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
