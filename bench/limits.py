"""`python -m bench.limits`: the least time of a step on given devices, before anything is timed.

A view of `kernels.limits`: ms per step and tokens per second of the whole batch, for batches and contexts; cells
whose sequences do not fit in memory are marked; then the KV pool, and the step with memory full.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from bench import ceilings, shapes
from bench.command import command
from engine.model.config import ModelConfig
from kernels.limits import H100, H200, DecoderShape, Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which decoder, on which devices."""

    model: str | None = None
    """Checkpoint directory whose config.json gives the shape."""
    shape: Literal["40m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"] = "qwen2.5-32b"
    """A known shape, where no model is given."""
    device: Literal["h200", "h100", "measured"] = "h200"
    """`measured`: this machine, its bandwidth and matrix rate measured now."""
    tensor_parallel_size: tuple[int, ...] = (1, 2, 4, 8)
    batch: tuple[int, ...] = (1, 8, 64, 256)
    context: tuple[int, ...] = (1024, 8192, 32768)
    weight_bits: Literal[16, 8, 4] = 16
    """Bits of a weight; 4 counts a 16-bit scale and zero per 64 weights."""
    kv_bits: Literal[16, 8] = 16


def step_table(limits: list[Limits], batches: tuple[int, ...], contexts: tuple[int, ...]) -> Table:
    """ms per step / tokens per second, a row for each tensor-parallel size and batch."""
    first, device = limits[0], limits[0].device
    title = (
        f"{device.name}: {device.bandwidth / 1e9:,.4g} GB/s, {device.flops / 1e12:,.3g} TFLOP/s; "
        f"{first.streamed_bytes / 1e9:.2f} GB of weights per step, "
        f"{first.kv_bytes_per_token / 1024:.4g} KiB of KV per token"
    )
    table = Table("TP", "batch", *(f"context {context:,}" for context in contexts), title=title)
    for at in limits:
        for batch in batches:
            table.add_row(str(at.tensor_parallel_size), str(batch), *(_cell(at, batch, each) for each in contexts))
    return table


def _cell(limits: Limits, batch: int, context: int) -> str:
    seconds = limits.step_seconds(batch, context)
    mark = "" if limits.resident_sequences(context) >= batch else "  does not fit"
    return f"{seconds * 1e3:.3g} ms / {batch / seconds:,.0f} tok/s{mark}"


def pool_table(limits: list[Limits], context: int) -> Table:
    """The KV pool, and the step where it is full of sequences of `context` tokens."""
    table = Table("TP", "KV pool, tokens", f"sequences of {context:,}", "ms per step", "tok/s", "prefill of 1,024, ms")
    for at in limits:
        resident = at.resident_sequences(context)
        step = at.step_seconds(resident, context) if resident else None
        table.add_row(
            str(at.tensor_parallel_size),
            f"{at.kv_pool_tokens:,}",
            str(resident),
            "does not fit" if step is None else f"{step * 1e3:.3g}",
            "" if step is None else f"{resident / step:,.0f}",
            f"{at.prefill_seconds(1024) * 1e3:.3g}",
        )
    return table


def main(options: Options) -> None:
    """Print both tables."""
    shape: DecoderShape = shapes.SHAPES[options.shape] if options.model is None else ModelConfig.load(options.model)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = {"h200": H200, "h100": H100}.get(options.device) or ceilings.measure(here).limits_of(here)
    weight_bytes = {16: 2, 8: 1, 4: 0.5625}[options.weight_bits]
    limits = [Limits(shape, device, ranks, weight_bytes, options.kv_bits / 8) for ranks in options.tensor_parallel_size]
    Console().print(step_table(limits, options.batch, options.context), pool_table(limits, 4352))


if __name__ == "__main__":
    command(Options, main)
