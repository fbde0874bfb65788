"""What a decode step should take on an H100 and an H200, launch by launch, before anyone has measured it.

A step is a row of launches. Each costs what it reads at the rate that its programs can keep up, wave after wave, and
besides two kinds of time in which memory has nothing to do: the gap until it starts, and the round trips to memory that
it makes one after the other before its stream flows and after it ends. Folded layers (`kernels.gemm_choices`) have
fewer launches; dependent ones fill the idle time with the first tiles of the next weight.

Every constant below is an assumption until a GPU day has put a figure beside the prediction: `bench.report` prints
both, and writes `table` into docs/performance.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.gpu.plan import CELLS
from bench.shapes import SHAPES
from kernels.embedding import embedding_cost
from kernels.gemm_choices import PREFETCH
from kernels.language import cdiv
from kernels.limits import H100, H200, Device, Limits, matrices
from kernels.rms_norm import rms_norm_cost
from kernels.rope_append import rope_append_cost
from kernels.silu_mul import silu_mul_cost
from kernels.small_gemm import MOST_TOKENS, default_config

SMS = 132
"""Multiprocessors of either card."""
TRIP = 0.7e-6
"""Seconds of one read that nothing waits beside: published latencies of HBM on Hopper, 0.6 to 0.8 us."""
GAP, EARLY_GAP = 1.04e-6, 0.3e-6
"""Seconds from the end of a kernel in a CUDA graph to the start of the next one; the same for a dependent launch."""
SM_RATE, L2_RATE = 112e9, 5.5e12
"""Bytes/s into one multiprocessor (64 a clock at 1.755 GHz), and out of L2 in all, as published measurements have."""
CUBLAS, OURS, ATTENTION = 0.84, 0.92, 0.92
"""Shares of the copy bandwidth that a stream reaches: cuBLAS from its first byte to its last, published for few rows
and taken for all; ours while all programs run, which is a guess."""

Way = Literal["plain", "folded", "dependent"]
WAYS: tuple[Way, ...] = ("plain", "folded", "dependent")


@dataclass(frozen=True)
class Launch:
    """One kernel of a step."""

    name: str
    read: float = 0.0
    """bytes out of the device's memory"""
    cached: float = 0.0
    """bytes out of L2 besides"""
    share: float = 1.0
    """of the copy bandwidth that its stream reaches"""
    programs: int = SMS
    resident: int = 2
    """programs that one multiprocessor holds"""
    in_flight: float = 64 * 1024
    """bytes that a program has asked for at any time"""
    before: float = 0.0
    """round trips before its stream flows"""
    after: float = 0.0
    """round trips after that"""
    ahead: float = 0.0
    """bytes that it asks for before the kernel in front of it ends"""
    early: bool = False

    def stream(self, device: Device) -> float:
        """Seconds of reading: whole waves of programs, then the rest, which may be too few to keep memory busy."""
        slots = SMS * self.resident
        waves, rest = divmod(self.programs, slots)
        each = self.read / self.programs

        def seconds(count: int) -> float:
            rate = min(device.bandwidth * self.share, min(count, SMS) * SM_RATE, count * self.in_flight / TRIP)
            return count * each / rate if count else 0.0

        return max(waves * seconds(slots) + seconds(rest), (self.read + self.cached) / L2_RATE)


@dataclass(frozen=True)
class Prediction:
    """One step's seconds, by kind."""

    launches: int
    read: float
    """bytes"""
    gaps: float
    idle: float
    """round trips in which nothing streams"""
    streaming: float

    @property
    def seconds(self) -> float:
        return self.gaps + self.idle + self.streaming


def _product(name: str, out: int, width: int, batch: int, way: Way, extra: bool) -> Launch:
    """A product of a layer; `extra`: what an epilogue of ours reads and writes besides."""
    read = 2.0 * out * width
    if way == "plain":
        return Launch(name, read, share=CUBLAS)
    gated = name == "gate_up"
    config = default_config((out, width), batch, 2, gated)
    rows = config.block_out * (1 + gated)
    split = config.split_k
    parts = 8.0 * batch * out * split if split > 1 else 0.0  # float32, written and read
    tile = rows * config.block_in * 2.0
    programs = cdiv(out, rows) * split
    return Launch(
        name,
        read,
        cached=cdiv(out, rows) * width * batch * 2.0 + parts + (4.0 * batch * out if extra else 0.0),
        share=OURS,
        programs=programs,
        in_flight=(config.num_stages - 1) * tile,
        before=1,
        after=4 if split > 1 else 1,
        ahead=min(programs, 2 * SMS) * PREFETCH * tile if way == "dependent" else 0.0,
        early=way == "dependent",
    )


def launches(shape: str, batch: int, context: int, way: Way) -> Iterator[Launch]:
    """Of one step, in order."""
    s = SHAPES[shape]
    known = {m.name: (m.rows, m.cols) for m in matrices(s)}
    heads, folded = (s.num_heads, s.num_kv_heads), way != "plain" and batch <= MOST_TOKENS
    way = way if folded else "plain"
    early = way == "dependent"

    def small(name: str, cost: tuple[int, int], trips: float, early: bool = False) -> Launch:
        return Launch(name, cached=cost[0], before=trips, early=early)

    norm = small("norm", rms_norm_cost(batch, s.hidden_size), 3, early)
    tiles = batch * s.num_kv_heads * cdiv(context, 64)
    programs = max(1, min(2 * SMS, tiles // 2))
    parts = cdiv(programs, batch * s.num_kv_heads)
    attention = Launch(
        "attention",
        read=4.0 * batch * context * s.num_kv_heads * s.head_dim,
        share=ATTENTION,
        programs=programs,
        before=3,  # lengths; query and pages; keys
        after=1 if parts == 1 else 3 + 2 * cdiv(parts, 8),  # its part, a ticket; statistics, then parts, eight at once
        early=early,
    )
    yield small("inputs", (0, 0), 4)
    yield small("embedding", embedding_cost(batch, s.hidden_size), 2)
    if folded:
        yield norm
    for _ in range(s.num_layers):
        if not folded:
            yield norm
        yield _product("qkv", *known["qkv"], batch, way, False)
        yield small("rotation", rope_append_cost(batch, heads, s.head_dim), 3, early)
        yield attention
        yield _product("o", *known["o"], batch, way, True)
        if not folded:
            yield norm
        yield _product("gate_up", *known["gate_up"], batch, way, False)
        if not folded:
            yield small("activation", silu_mul_cost(batch, s.intermediate_size), 2)
        yield _product("down", *known["down"], batch, way, True)
    yield norm
    yield _product("head", *known["head"], batch, "plain", False)
    for name, trips in (("draw: tiles", 3), ("draw", 4), ("machine", 8)):
        yield small(name, (4 * batch * s.vocab_size if name == "draw: tiles" else 0, 0), trips)


def predict(device: Device, batch: int, context: int, way: Way, shape: str = "qwen2.5-32b") -> Prediction:
    """One step of `batch` sequences with `context` keys each."""
    count, read, gaps, idle, streaming, tail = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for launch in launches(shape, batch, context, way):
        count, read = count + 1, read + launch.read
        gaps += EARLY_GAP if launch.early else GAP
        streaming += launch.stream(device)
        # What is asked for ahead comes while the kernel in front makes its last round trips, and this one its first.
        trips = (launch.before + launch.after) * TRIP
        idle += trips - min((tail + launch.before) * TRIP, launch.ahead / device.bandwidth)
        tail = launch.after if launch.read else launch.before
    return Prediction(count, read, gaps, idle, streaming)


def table() -> str:
    """Markdown: every cell by every way, beside the limit; then where the time of batch 1 goes."""
    lines = [
        "| card, batch x context | limit, ms | " + " | ".join(f"{way}, ms" for way in WAYS) + " |",
        "|---" * (2 + len(WAYS)) + "|",
    ]
    for device in (H100, H200):
        for batch, context in (map(int, cell.split("x")) for cell in CELLS[device.name].folded):
            limit = Limits(SHAPES["qwen2.5-32b"], device).step_seconds(batch, context)
            found = [predict(device, batch, context, way).seconds for way in WAYS]
            cells = " | ".join(f"{seconds * 1e3:.1f} ({limit / seconds:.0%})" for seconds in found)
            lines.append(f"| {device.name}, {batch} x {context:,} | {limit * 1e3:.1f} | {cells} |")
    for device in (H100, H200):
        lines += [
            "",
            f"| {device.name}, 1 x 1,024 | launches | read, GB | streaming, ms | round trips, ms | gaps, ms |",
        ]
        lines.append("|---" * 6 + "|")
        for way in WAYS:
            at = predict(device, 1, 1024, way)
            times = " | ".join(f"{seconds * 1e3:.2f}" for seconds in (at.streaming, at.idle, at.gaps))
            lines.append(f"| {way} | {at.launches} | {at.read / 1e9:.2f} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
