"""`python -m bench.correctness`: the same engine on this device and by definition on the CPU, before it is timed.

A small random model in float32 runs a batch of prompts with budgets and extensions twice: on the device, and on the
CPU with every operator by its torch definition. All committed tokens must be equal; in bfloat16 their share is told.
Where pytest is installed, the operators' own tests run too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from bench import record
from bench.checkpoints import checkpoint
from bench.shapes import SHAPES
from engine import Engine, SamplingParams

CHILD = "S1_KERNELS"
"""Set to `reference`, it makes the second run use the definitions: the pick is made once per process."""


@dataclass(frozen=True, kw_only=True)
class Options:
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    tests: bool = True
    """Run the operators' tests too, where pytest is installed."""
    cache: Path = Path(tempfile.gettempdir()) / "s1-engine-bench"
    output: Path | None = None
    """A file of JSON lines to append the results to."""
    reference: bool = False
    """Print this process's tokens as JSON and end: how the command calls itself."""


def tokens(folder: Path, device: str, dtype: str) -> list[list[int]]:
    """Committed tokens of 12 requests of uneven length, with and without budgets, in chunks of 32."""
    source = random.Random(0)
    with Engine(folder, device=device, dtype=dtype, max_num_seqs=8, max_num_batched_tokens=32,
                max_model_len=512) as engine:  # fmt: skip
        opener = engine.tokenizer.encode("<|im_start|>think", specials=True)
        prompts = [[source.randrange(engine.tokenizer.size - 3) for _ in range(5 + 17 * i)] + opener for i in range(12)]
        params = [
            SamplingParams(max_tokens=64, temperature=0.5 * (i % 2), seed=i, ignore_eos=True,
                           thinking_token_budget=None if i % 3 == 0 else 12 + i, thinking_extensions=i % 4)
            for i in range(12)
        ]  # fmt: skip
        return [output.outputs[0].token_ids for output in engine.generate(prompts, params)]


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of positions before each request's first difference."""
    same = total = 0
    for a, b in zip(ours, theirs, strict=True):
        total += max(len(a), len(b))
        same += next((at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
    return same / total


def by_definition(options: Options) -> list[list[int]]:
    """The same tokens from a process of its own that runs the definitions on the CPU."""
    command = [sys.executable, "-m", "bench.correctness", "--reference", "--cache", str(options.cache)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {CHILD: "reference"})
    if done.returncode:
        raise SystemExit(f"bench.correctness: the definitions' run failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def run(options: Options, console: Console) -> bool:
    """Whether everything agreed."""
    folder = checkpoint(options.cache, SHAPES["tiny"])
    if options.reference:
        print(json.dumps(tokens(folder, "cpu", "float32")))
        return True
    expected = by_definition(options)
    values: dict[str, float | None] = {
        "float32_equal": agreement(tokens(folder, options.device, "float32"), expected),
        "bfloat16_equal": agreement(tokens(folder, options.device, "bfloat16"), expected),
    }
    console.print(
        f"tokens equal to the definitions' before each first difference: float32 {values['float32_equal']:.1%}, "
        f"bfloat16 {values['bfloat16_equal']:.1%} (rounding may change its draws)"
    )
    good = values["float32_equal"] == 1.0
    if options.tests and importlib.util.find_spec("pytest") is not None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/kernels"]
        done = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True)
        console.print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-300:])
        values["operator_tests_passed"] = float(done.returncode == 0)
        good = good and done.returncode == 0
    elif options.tests:
        console.print("pytest is not installed: the operators' tests did not run")
    if options.output is not None:
        machine = record.Machine.read(torch.device(options.device))
        record.append(machine.record("correctness", {"model": "tiny"}, values), options.output)
    return good


if __name__ == "__main__":
    if not run(tyro.cli(Options, prog="python -m bench.correctness", description=__doc__), Console()):
        raise SystemExit("bench.correctness: the device does not do what the definitions say")
