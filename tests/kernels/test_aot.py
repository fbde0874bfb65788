"""Every kernel compiled ahead of time for sm_90 in production configurations, and its machine code read."""

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import kernels
from bench.gemm import candidates, linears
from bench.shapes import SHAPES
from kernels.aot import SHARED_LIMIT, Case, Compiled, binary_of, compile_case
from kernels.language import jit, tl, triton
from kernels.production import checking_cases, production_cases
from kernels.small_gemm import small_gemm_config

ROOT = Path(__file__).parents[2]
CASES = {case.name: case for case in production_cases()}
EVERY_KERNEL = [
    "rms_norm+add 5120",
    "all_reduce_norm 5120 x 8",
    "silu_mul 27648",
    "embedding 152064x5120",
    "rope_append bf16",
    "rope_append bf16 normed",
    "decode 32B batch 64 bf16",
    "decode 32B batch 64 fp8e4nv",
    "prefill 32B batch 64 bf16",
    "decode_inputs",
    "gemm gate_up 16",
    "gemm down 64",
    "gemm gate_up 16 int8",
    "gemm down 64 dependent",
    "rms_norm 5120 dependent",
    "rope_append bf16 dependent",
    "decode 32B batch 1 bf16 dependent",
    "sample filtered: tiles",
    "sample filtered: draw",
    "thinking_step all",
]


EIGHT_BITS = {"*i8", "*fp8e4nv"}
MOST_INSTRUCTIONS = 3000
"""Of a kernel that runs fast: compiling takes 0.6 to 1 ms for each, on one slow core."""


def check(case: Case, compiled: Compiled) -> None:
    """No spills, shared memory within a block's limit, the tensor-core instruction that a dot's rows allow, no division
    of 64 bits (a subroutine of 70 instructions), and so few instructions that nobody waits for the compiler.

    Tiles of 16-bit values come in pieces of 16 bytes; what else a loop loads ahead is one page's number for each stage.
    """
    assert compiled.instructions["division of 64 bits"] == 0, compiled
    if case.name.startswith(("gemm", "decode ")) and not EIGHT_BITS & set(case.arguments.values()):
        narrow = compiled.instructions["LDGSTS"] - compiled.instructions["LDGSTS.128"]
        assert narrow <= (0 if "gemm" in case.name else case.constants["num_stages"]), compiled
    if case.name.startswith(("gemm", "decode ")) and not re.fullmatch(r"gemm \w+ 64 (int8|fp8).*", case.name):
        # Beyond 32 rows those that widen codes need some registers too many for a second program of eight warps.
        assert compiled.warps_per_sm >= 2 * compiled.num_warps, "two programs on each multiprocessor"
    assert compiled.stack == 0 and compiled.instructions["LDL"] == compiled.instructions["STL"] == 0, compiled
    assert compiled.shared <= SHARED_LIMIT, compiled
    assert 0 < compiled.registers <= 255 and compiled.warps_per_sm > 0, compiled
    if case.dot_rows >= 64:
        assert compiled.instructions["HGMMA"] > 0 == compiled.instructions["HMMA"], compiled
    elif case.dot_rows:
        assert compiled.instructions["HMMA"] > 0 == compiled.instructions["HGMMA"], compiled
    else:
        assert compiled.instructions["HGMMA"] == compiled.instructions["HMMA"] == 0, compiled
    assert 0 < compiled.length <= MOST_INSTRUCTIONS, compiled


@pytest.mark.parametrize("name", EVERY_KERNEL)
def test_compiles_for_sm_90(name):
    check(CASES[name], compile_case(CASES[name]))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if "thinking" in case.name else pytest.mark.slow)
        for case in checking_cases()
    ],
)
def test_what_tests_on_a_gpu_compile_is_compiled_in_seconds(case):
    """Fewer than 5 to 8 s each; all 1,024 rows of the machine in one warp were 50,000 instructions and took 74 s."""
    assert 0 < compile_case(case).length <= 8000


def test_no_kernel_is_left_out():
    """Every jitted function named `_..._kernel`, wherever it is in the package, is among those above."""
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__) if not module.name.startswith("_")]
    values = [item for name in names for item in vars(importlib.import_module(f"kernels.{name}")).items()]
    found = {v for n, v in values if isinstance(v, triton.JITFunction) and n[0] == "_" and n.endswith("_kernel")}
    assert len(found) >= 10 and found == {CASES[name].kernel for name in EVERY_KERNEL}


@pytest.mark.parametrize("version", ["3.6.0", "3.9.0"])
def test_the_kept_table_has_every_kernel(version):
    """And says of each what `check` asks for; `python -m bench.aot` replaces it."""
    lines = (ROOT / "bench" / "results" / f"aot_sm90_triton{version}.jsonl").read_text().splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert rows.keys() == CASES.keys()
    for name, row in rows.items():
        assert row["triton"] == version and row["compile_s"] < 5
        check(CASES[name], Compiled(**{field.name: row[field.name] for field in fields(Compiled)}))


GLOBAL = re.compile(r"(\bld\.(?:global|volatile)|\bst\.global|\bcp\.|\batom\.|\bred\.|\bprefetch)")


@pytest.mark.parametrize(
    "name",
    [
        "gemm down 16 dependent",
        "gemm gate_up 64 dependent",
        pytest.param("gemm qkv 16 dependent", marks=pytest.mark.slow),
    ],
)
def test_a_dependent_product_only_prefetches_its_weight_before_it_waits(name):
    """Read from the PTX: prefetches of the weight, the wait, the start of the next kernel, the rest."""
    text = binary_of(CASES[name]).asm["ptx"]
    before, rest = text.split("griddepcontrol.wait")
    between, after = rest.split("griddepcontrol.launch_dependents")
    assert not re.search(r"\bbra\b|\bret\b", before), "a program could miss the wait"
    assert not re.search(r"@%p\d+\s*$", before) and not GLOBAL.search(between)
    roots: dict[str, set[str]] = {}  # the pointer arguments that a register comes from
    fetched = 0
    for line in before.splitlines():
        access = GLOBAL.search(line)
        registers = re.findall(r"%[a-z]+\d+", line)
        if access:
            assert access.group() == "prefetch", line
            assert roots[registers[0]] == {"1"}, line  # weight_ptr is the second argument
            fetched += 1
        elif "ld.param" in line:
            pointer = re.search(r"ld\.param\.b64\s+(%rd\d+), \[\w+_param_(\d+)\]", line)
            if pointer:
                roots[pointer.group(1)] = {pointer.group(2)}
        elif registers:
            roots[registers[0]] = set().union(*(roots.get(r, set()) for r in registers[1:]))
    # 64 rows of 4 tiles, 32 bytes (16 values) at a time over 128 threads; twice that with an up projection.
    tiles = 2 if "gate_up" in name else 1
    assert fetched == tiles * 64 * 4 * CASES[name].constants["BLOCK_IN"] // 16 // 128 and GLOBAL.search(after)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EVERY_KERNEL else pytest.mark.slow)
        for name in CASES
        if name.endswith(" dependent") and "gemm" not in name
    ],
)
def test_other_dependent_kernels_wait_before_they_touch_memory(name):
    text = binary_of(CASES[name]).asm["ptx"]
    before, rest = text.split("griddepcontrol.wait")
    between, after = rest.split("griddepcontrol.launch_dependents")
    assert not re.search(r"\bbra\b|\bret\b", before), "a program could miss the wait"
    assert not GLOBAL.search(before) and not GLOBAL.search(between) and GLOBAL.search(after)


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("linear", linears(SHAPES["qwen2.5-32b"], 1)[1:4], ids=lambda linear: linear.name)
def test_whatever_the_tuner_tries_compiles(linear):
    """At the most tokens, where it takes most: o, gate_up and down."""
    like = CASES[f"gemm {linear.name} 64"]
    for config in candidates(linear, 64, torch.bfloat16):
        parts = like.constants["PARTS"]
        constants = {**like.constants, **small_gemm_config(replace(config, prefetch=8), 64, torch.bfloat16, parts)}
        arguments = {k: v for k, v in like.arguments.items() if k not in ("partial_ptr", "tickets_ptr")}
        arguments |= {"partial_ptr": "*fp32", "tickets_ptr": "*i32"} if config.split_k > 1 else {}
        tried = Case(f"tried: {config}", like.kernel, arguments, constants, config.block_out)
        check(tried, compile_case(tried))


@jit
def _dividing_kernel(x_ptr, y_ptr):
    tl.store(y_ptr, tl.load(x_ptr) // tl.load(x_ptr + 1))


@pytest.mark.parametrize("kind, found", [("*i64", 1), ("*i32", 0)])
def test_a_division_of_64_bits_is_seen(kind, found):
    compiled = compile_case(Case("divides", _dividing_kernel, {"x_ptr": kind, "y_ptr": kind}, {"num_warps": 1}))
    assert compiled.instructions["division of 64 bits"] == found


def test_a_kernel_that_spills_is_seen():
    """The check itself: 8,192 pairs of values in the registers of one warp."""
    case = CASES["silu_mul 27648"]
    spilling = {**case.constants, "BLOCK": 8192, "num_warps": 1}
    compiled = compile_case(Case("spills", case.kernel, case.arguments, spilling))
    assert compiled.stack > 0 and compiled.instructions["STL"] > 0
    with pytest.raises(AssertionError):
        check(case, replace(compiled, length=1))


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
