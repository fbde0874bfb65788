"""`python -m bench.compile`: Triton's cache filled with what a GPU day launches, before a GPU is asked for anything.

Every kernel is launched on a card that is not there (`kernels.dry_run`), in the very configurations that the engine and
the tuner use, and compiled for sm_90 as Triton itself would; processes share the work. The cache that this fills serves
a machine with the same build of Triton, at the same path (TRITON_CACHE_DIR).
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench import checkpoints, gemm, processes, record, shapes, stand_in
from bench.command import Output, command
from engine import EngineConfig, SamplingParams, build, prepare
from engine.ranks.group import Group
from engine.schedule.sequence import Admission
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import PRESETS
from kernels.dry_run import CUDA, DryRun
from kernels.gemm_choices import RULES

_RULE = "S1_GEMM_TABLE"
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"32B {rule or 'bf16'}": ("qwen2.5-32b", {_RULE: rule}) for rule in ("", *RULES)},
    "32B fp8 KV": ("qwen2.5-32b", {"kv_cache_dtype": "fp8"}),
    "32B int8": ("qwen2.5-32b", {"quantization": "int8"}),
    "32B fp8": ("qwen2.5-32b", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "0.5B": ("qwen2.5-0.5b", {}),
    "7B": ("qwen2.5-7b", {}),  # the client loop, and the peers' side
    "tiny": ("tiny", {}),
    "tiny float32": ("tiny", {"dtype": "float32"}),  # correctness
    "32B float32": ("qwen2.5-32b", {"dtype": "float32"}),
}
_WARM = (
    SamplingParams(max_tokens=40, thinking_format="none"),
    SamplingParams(max_tokens=40, temperature=1.0, thinking_token_budget=2, thinking_extensions=1),
    SamplingParams(max_tokens=40, temperature=1.0, top_p=0.9),
)


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """What to compile, and with how many processes."""

    gemm: bool = True
    """The tuner's candidates too."""
    workers: int = os.cpu_count() or 1


def engine(shape: str, options: dict[str, Any]) -> int:
    """Compile what an engine of two layers launches, as the second one's qkv may follow other products: prompts, mixed
    steps, and decode steps of all sizes. How many."""
    options = dict(options)
    os.environ[_RULE] = options.pop(_RULE, "")
    with tempfile.TemporaryDirectory() as folder, DryRun(compiles=True) as dry:
        model = checkpoints.checkpoint(Path(folder), replace(shapes.SHAPES[shape], num_layers=2), weights=False)
        tokenizer = Tokenizer.load(model)
        config = EngineConfig(
            model=str(model),
            device="cuda",
            load_format="dummy",
            max_model_len=4096,
            max_num_seqs=64,
            capture_at_start=True,
            **options,
        )
        core = build.build_core(config, model, tokenizer, Group.single(CUDA))
        preparer = prepare.Preparer(tokenizer, "s1", 4096)
        opener = tokenizer.encode(PRESETS["s1"].opener, specials=True)
        for number, params in enumerate(_WARM):
            core.apply(Admission(number, preparer.prepare([5] * 300 + opener, params), number))
            step = core.scheduler.schedule(drained=True)
            assert step is not None
            core.runner.launch(step).read()
            for sequence in step.rows:
                core.scheduler.commit(sequence, 5)
        return sum(map(len, dry.counts.variants.values()))


def tuner(linear: gemm.Linear, tokens: int) -> int:
    """Compile the tuner's candidates for one product. How many."""
    with DryRun(compiles=True) as dry:
        race = gemm.Race(linear, tokens, CUDA, torch.bfloat16, codes=False)
        for config in gemm.candidates(linear, tokens, torch.bfloat16):
            race.ours(race.x, config)
        return sum(map(len, dry.counts.variants.values()))


def jobs(options: Options) -> Mapping[str, Callable[[], int]]:
    """What there is to do, the longest first, by name."""
    products = {
        f"{linear.name}, {tokens} tokens": partial(tuner, linear, tokens)
        for tokens in gemm.Options.tokens
        for linear in gemm.linears(shapes.SHAPES["qwen2.5-32b"], 1)
    }
    if stand_in.card() is not None:  # the few that compile fast
        return {"gate_up, 1 tokens": products["gate_up, 1 tokens"]}
    engines = {name: partial(engine, *arguments) for name, arguments in ENGINES.items()}
    return engines | products if options.gemm else engines


def _alone() -> None:
    """In a worker: one thread, and no GPU, which none of this needs."""
    processes.ends_with_its_parent()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)


def main(options: Options) -> None:
    """Compile everything; a line for each job, and a record."""
    start, total = time.perf_counter(), 0
    work = jobs(options)
    with ProcessPoolExecutor(min(options.workers, len(work)), get_context("spawn"), _alone) as pool:
        futures = {name: pool.submit(job) for name, job in work.items()}
        for name, future in futures.items():
            total += future.result()
            print(f"{name}: {future.result()} kernels, {time.perf_counter() - start:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    print(f"{total} kernels compiled by {options.workers} processes in {seconds:.0f} s")
    record.Machine.read(torch.device("cpu")).write(
        options.output,
        "compile",
        {"workers": options.workers, "gemm": options.gemm},
        {"kernels": float(total), "seconds": seconds},
    )


if __name__ == "__main__":
    command(Options, main)
