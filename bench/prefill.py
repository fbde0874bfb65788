"""`python -m bench.prefill`: seconds to the first token, and loading.

Prefill is timed through the engine with one output token; beside it stand the FLOPs that the prompt needs and the
matrix rate measured in the same run. Loading is from the constructor to an engine that can take requests; it is not
timed where weights are made on the device.
"""

import random
import time
from dataclasses import dataclass

import torch
from rich.console import Console

from bench import ceilings, record, stand_in, timing
from bench.command import Loaded, columns, command
from engine import Engine, SamplingParams
from engine.model.config import ModelConfig
from kernels.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options(Loaded):
    """Which model, and which prompts."""

    context: tuple[int, ...] = (1024, 8192)
    """Lengths of the prompt."""
    rounds: int = 3


def prefill_seconds(engine: Engine, context: int, rounds: int) -> float:
    """Median seconds of a request with `context` random tokens and one output token."""
    source, vocab = random.Random(context), engine.tokenizer.size - 3
    # one more than there are rounds, which warms up
    requests = iter([[[source.randrange(vocab) for _ in range(context)]] for _ in range(rounds + 1)])
    params = SamplingParams(max_tokens=1, thinking_format="none")
    # a CPU's time is that of a clock on the wall
    return timing.repeat(lambda: engine.generate(next(requests), params), torch.device("cpu"), rounds, 0).median


def main(options: Options) -> None:
    """Load once, then every context; a table, and records appended to `options.output`."""
    torch.set_num_threads(options.threads)
    console, device, name, folder = Console(), torch.device(options.device), options.name, options.folder
    rates, model = ceilings.measure(device).limits_of(device), ModelConfig.load(folder)
    limits = Limits(model, rates, weight_bytes=model.dtype.itemsize, kv_bytes=model.dtype.itemsize)
    machine, start = record.Machine.read(device), time.perf_counter()
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
            machine.write(options.output, "load", {"model": name}, {"seconds": loaded, "GBps": size / loaded / 1e9})
        table = columns("prompt", "s", "tok/s", "TFLOP/s", "of matmul", "limit, s", title=f"{name}: prefill")
        for context in options.context:
            length = stand_in.tokens(context)
            seconds, flops = prefill_seconds(engine, length, options.rounds), limits.prefill_flops(length)
            got = {
                "seconds": seconds,
                "tok_s": length / seconds,
                "TFLOPs": flops / seconds / 1e12,
                "matmul_share": flops / seconds / limits.device.flops,
                "limit_s": limits.prefill_seconds(length),
            }
            machine.write(options.output, "prefill", {"model": name, "context": context}, got)
            table.add_row(f"{context:,}", *map(format, got.values(), (".3g", ",.0f", ".3g", ".0%", ".3g")))
    console.print(table)


if __name__ == "__main__":
    command(Options, main)
