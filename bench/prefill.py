"""`python -m bench.prefill`: seconds to the first token, and loading.

Prefill is timed through the engine with one output token; beside it stand the FLOPs that the prompt needs and the
matrix rate measured in the same run. Loading is from the constructor to an engine that can take requests.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench import ceilings, record, stand_in
from bench.checkpoints import checkpoint
from engine import Engine, InputError, SamplingParams
from engine.model.config import ModelConfig
from kernels.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str | None = None
    """Checkpoint directory; without one, random weights of `shape` are made in `cache`."""
    shape: Literal["tiny", "40m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"] = "40m"
    dummy: bool = False
    """Make the random weights on the device; loading is then not timed."""
    context: tuple[int, ...] = (1024, 8192)
    """Lengths of the prompt."""
    rounds: int = 3
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = torch.get_num_threads()
    cache: Path = Path(tempfile.gettempdir()) / "s1-engine-bench"
    output: Path | None = None
    """A file of JSON lines to append the results to."""


def figures(seconds: float, context: int, limits: Limits) -> dict[str, float | None]:
    """Seconds, tok/s, TFLOP/s, and the share of the measured matrix rate."""
    flops = limits.prefill_flops(context)
    return {
        "seconds": seconds,
        "tok_s": context / seconds,
        "TFLOPs": flops / seconds / 1e12,
        "matmul_share": flops / seconds / limits.device.flops,
        "limit_s": limits.prefill_seconds(context),
    }


def prefill_seconds(engine: Engine, context: int, rounds: int) -> float:
    """Median seconds of a request with `context` random tokens and one output token."""
    source = random.Random(context)
    params = SamplingParams(max_tokens=1, thinking_format="none")
    seconds = []
    for _ in range(rounds + 1):  # the first warms up
        prompt = [source.randrange(engine.tokenizer.size - 3) for _ in range(context)]
        start = time.perf_counter()
        engine.generate([prompt], params)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def run(options: Options, console: Console) -> list[record.Record]:
    """Load once, then every context; a table, and records appended to `options.output`."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = Path(options.model).name if options.model else options.shape
    folder = Path(options.model or checkpoint(options.cache, stand_in.shape(options.shape), weights=not options.dummy))
    rates = ceilings.measure(device).limits_of(device)
    model = ModelConfig.load(folder)
    limits = Limits(model, rates, weight_bytes=model.dtype.itemsize, kv_bytes=model.dtype.itemsize)
    machine = record.Machine.read(device)
    records = []

    def keep(line: record.Record) -> None:
        records.append(line)
        if options.output is not None:
            record.append(line, options.output)

    start = time.perf_counter()
    with Engine(
        folder,
        device=str(stand_in.device(device)),
        max_num_seqs=1,
        max_model_len=stand_in.tokens(max(options.context)) + 1,
        enable_prefix_caching=False,
        load_format="dummy" if options.dummy else "auto",
    ) as engine:
        loaded = time.perf_counter() - start
        if not options.dummy:
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            console.print(f"{name}: {size / 1e9:.2f} GB loaded in {loaded:.2f} s, {size / loaded / 1e9:.2f} GB/s")
            values = {"seconds": loaded, "GBps": size / loaded / 1e9}
            keep(machine.record("load", {"model": name}, values))
        table = Table("prompt", "s", "tok/s", "TFLOP/s", "of matmul", "limit, s", title=f"{name}: prefill")
        for context in options.context:
            length = stand_in.tokens(context)
            got = figures(prefill_seconds(engine, length, options.rounds), length, limits)
            keep(machine.record("prefill", {"model": name, "context": context}, got))
            table.add_row(
                f"{context:,}",
                f"{got['seconds']:.3g}",
                f"{got['tok_s']:,.0f}",
                f"{got['TFLOPs']:.3g}",
                f"{got['matmul_share']:.0%}",
                f"{got['limit_s']:.3g}",
            )
    console.print(table)
    return records


def main() -> None:
    try:
        run(tyro.cli(Options, prog="python -m bench.prefill", description=__doc__), Console())
    except InputError as error:
        raise SystemExit(f"bench.prefill: {error}") from None


if __name__ == "__main__":
    main()
