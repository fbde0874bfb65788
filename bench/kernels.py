"""`python -m bench.kernels`: each operator alone: us, GB/s or TFLOP/s, and its share of the ceiling of the same run.

Memory is cold: on a GPU the L2 cache is flushed before every call, on a CPU each call takes the next of so many copies
of its weight or cache that they take 512 MiB. `--against torch` adds torch's own way to do the same work.

On a CPU `layers` is what the engine calls, all layers of a step, and `layers: qkv` and the like are its parts: the
operators inside that call, by a clock of its own, for one layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table

from bench import record, stand_in
from bench.ceilings import Ceilings, later, measure
from bench.shapes import SHAPES, Shape
from bench.timing import repeat
from kernels.attention import (
    decode_attention,
    decode_attention_cost,
    prefill_attention,
    prefill_attention_cost,
)
from kernels.embedding import embedding, embedding_cost
from kernels.linear import head, linear, linear_cost, linear_silu_mul, pack
from kernels.native import decoder as native_decoder
from kernels.native import library as native
from kernels.native.decoder import Layer, NativeDecoder
from kernels.paged import new_pages
from kernels.rms_norm import rms_norm, rms_norm_cost
from kernels.rope_append import rope_append, rope_append_cost
from kernels.sampler import Real, SamplingNeeds, SamplingTables, Whole, sample, sample_cost
from kernels.silu_mul import silu_mul, silu_mul_cost
from kernels.thinking import MachineTables, Param, State, Text, thinking_step, thinking_step_cost
from kernels.weights import LinearWeight

_PAGE = 64
LAYERS = ("layers", *(f"layers: {part}" for part in native_decoder.PARTS))
"""The operations of `layers`: the call, and the parts of a layer inside it."""
_COLD_BYTES = 2**29
"""What the copies of an input take together on a CPU: more than its caches."""


@dataclass(frozen=True)
class Operation:
    """One operator at one size: what to call, what it must move and compute, and torch's way, where it has one."""

    name: str
    size: str
    call: Callable[[], object] | float
    """Or seconds, where they are measured already."""
    cost: tuple[int, int]
    torch: Callable[[], object] | None = None
    reads: Callable[[], object] | None = None
    """Reads the operation's weight, cold, and does nothing with it: the same call without the work (CPU)."""


@dataclass(frozen=True)
class Options:
    """What to time. Defaults: Qwen2.5-32B in bf16 on a GPU, Qwen2.5-0.5B in float32 on a CPU."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    shape: str | None = None
    """A name of `bench.shapes.SHAPES`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch: tuple[int, ...] = (1, 8, 64)
    context: tuple[int, ...] = (1024, 8192)
    """Keys per row in decode attention; a size that does not fit in memory is announced and left out."""
    against: tuple[Literal["torch"], ...] = ()
    only: str = ""
    """Operators whose name contains this."""
    threads: int = 1
    output: Path | None = record.RESULTS / "kernels.jsonl"
    resume: bool = False
    """Leave out what `output` has already."""


def copies(nbytes: int, device: torch.device) -> int:
    """How many copies of an input of `nbytes` calls take in turn."""
    return 1 if device.type == "cuda" or stand_in.card() is not None else -(-_COLD_BYTES // nbytes)


def packed_in_turn(w: LinearWeight) -> Iterator[LinearWeight]:
    """Packed copies of a weight, round and round."""
    return cycle([pack(w) for _ in range(copies(w.weight.nbytes, w.weight.device))])


def reading(weights: Iterator[LinearWeight]) -> Callable[[], object] | None:
    """A call that reads the next packed weight and no more; None without the native library."""
    first = next(weights)
    return None if first.packed is None else lambda: native.read(next(weights).panels.data)


def rows(shape: Shape, batch: int, device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """The operators whose cost follows the tokens of a step."""
    hidden, features, heads = shape.hidden_size, shape.intermediate_size, (shape.num_heads, shape.num_kv_heads)
    item, kv_width = dtype.itemsize, shape.num_kv_heads * shape.head_dim
    width = shape.num_heads * shape.head_dim + 2 * kv_width

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, device=device, dtype=dtype) / sizes[-1] ** 0.5

    x, residual, gain = random(batch, hidden), random(batch, hidden), random(hidden)
    yield Operation(
        "rms_norm+add",
        f"{batch}x{hidden}",
        lambda: rms_norm(x, gain, 1e-6, residual),
        rms_norm_cost(batch, hidden, item),
        lambda: F.rms_norm(x + residual, (hidden,), gain, 1e-6),
    )
    gate_up = random(batch, 2 * features)
    yield Operation(
        "silu_mul",
        f"{batch}x{features}",
        lambda: silu_mul(gate_up),
        silu_mul_cost(batch, features, item),
        lambda: F.silu(gate_up[:, :features]) * gate_up[:, features:],
    )
    table, ids = random(shape.vocab_size, hidden), torch.arange(batch, device=device) * 97 % shape.vocab_size
    yield Operation(
        "embedding",
        f"{batch}x{hidden}",
        lambda: embedding(ids, table),
        embedding_cost(batch, hidden, item),
        lambda: F.embedding(ids, table),
    )
    k_cache, v_cache = (random(batch + 1, shape.num_kv_heads, _PAGE, shape.head_dim) for _ in range(2))
    qkv, slots = random(batch, width), torch.arange(1, batch + 1, device=device) * _PAGE
    cos_sin = torch.randn(64, shape.head_dim, device=device)
    positions = torch.arange(batch, device=device) % 64
    yield Operation(
        "rope_append",
        f"{batch}x{width}",
        lambda: rope_append(qkv, cos_sin, positions, slots, k_cache, v_cache, heads),
        rope_append_cost(batch, heads, shape.head_dim, item, item),
    )
    matrices = {"qkv": (width, hidden), "o": (hidden, shape.num_heads * shape.head_dim), "down": (hidden, features)}
    for name, (out, inner) in matrices.items():
        a, w = random(batch, inner), LinearWeight(random(out, inner))
        turn = packed_in_turn(w)
        yield Operation(
            f"linear {name}",
            f"{batch}x{out}x{inner}",
            lambda a=a, turn=turn: linear(a, next(turn)),
            linear_cost(batch, out, inner, item),
            lambda a=a, w=w: F.linear(a, w.weight),
            reading(turn),
        )
    up = LinearWeight(random(2 * features, hidden))
    ups = packed_in_turn(up)
    yield Operation(
        "linear_silu_mul",
        f"{batch}x{2 * features}x{hidden}",
        lambda: linear_silu_mul(x, next(ups)),
        linear_cost(batch, 2 * features, hidden, item),
        lambda: F.silu(F.linear(x, up.weight)[:, :features]) * F.linear(x, up.weight)[:, features:],
        reading(ups),
    )
    heads_in_turn, logits = packed_in_turn(LinearWeight(table)), torch.empty(batch, shape.vocab_size)
    yield Operation(
        "head",
        f"{batch}x{shape.vocab_size}x{hidden}",
        lambda: head(x, next(heads_in_turn), logits),
        linear_cost(batch, shape.vocab_size, hidden, item, 4),
        lambda: F.linear(x, table).float(),
        reading(heads_in_turn),
    )
    yield from steps(shape.vocab_size, batch, device)


def steps(vocab: int, batch: int, device: torch.device) -> Iterator[Operation]:
    """Sampling and the thinking machine, in plain states."""

    def zeros(*sizes: int) -> torch.Tensor:
        return torch.zeros(*sizes, dtype=torch.int32, device=device)

    machine = MachineTables(
        zeros(batch, len(State)),
        zeros(batch, len(Param)),
        zeros(batch, len(Text), 8),
        zeros(batch, 1) - 1,
        zeros(batch, 1),
        zeros(batch, 1) - 1,
        zeros(batch, 4096),
        zeros(2) - 1,
        torch.zeros(vocab, dtype=torch.bool, device=device),
    )
    machine.params[:, [Param.BUDGET, Param.MAX_TOKENS, Param.MAX_CONTEXT]] = 2**30
    real = torch.ones(batch, len(Real), device=device)
    real[:, Real.MIN_P] = 0
    tables, slots = SamplingTables(real, zeros(batch, len(Whole))), torch.arange(batch, device=device)
    logits = torch.randn(batch, vocab, device=device) * 4
    for label, needs, top_p in (
        ("greedy", SamplingNeeds(masked=True), 1.0),
        ("gumbel", SamplingNeeds(noise=True, masked=True), 1.0),
        ("top-p", SamplingNeeds(noise=True, filters=True, masked=True), 0.95),
    ):
        chosen = SamplingTables(real.index_fill(1, torch.tensor([Real.TOP_P], device=device), top_p), tables.whole)
        yield Operation(
            f"sample {label}",
            f"{batch}x{vocab}",
            lambda chosen=chosen, needs=needs: sample(logits, chosen, machine, slots, vocab, needs),
            sample_cost(batch, vocab),
            lambda: torch.argmax(logits, 1),
        )
    draw, bad = torch.ones(batch, dtype=torch.int64, device=device), torch.zeros(batch, dtype=torch.bool, device=device)

    def step() -> None:
        machine.state[:, State.LENGTH] = 1  # so that the history never fills up
        thinking_step(machine, slots, draw, draw, bad)

    yield Operation("thinking_step", f"{batch}", step, thinking_step_cost(batch))


def attention(shape: Shape, batch: int, context: int, device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """Decode over `batch` rows of `context` keys, and at batch 1 a prefill of 512 tokens at their end."""
    heads, item = (shape.num_heads, shape.num_kv_heads), dtype.itemsize
    size, context = f"{batch}x{context}", stand_in.tokens(context)
    pages = -(-context // _PAGE)
    sizes = (batch * pages + 1, shape.num_kv_heads, _PAGE, shape.head_dim)
    needed = 2 * sizes[0] * shape.num_kv_heads * _PAGE * shape.head_dim * item
    if needed > (2**31 if device.type == "cpu" else 2**35):
        print(f"attention {size}: {needed / 2**30:.1f} GiB of cache, left out")
        return

    def cache() -> tuple[torch.Tensor, torch.Tensor]:
        k, v = new_pages(sizes, dtype, device)
        return k.normal_(), v.normal_()

    k_cache, v_cache = cache()
    caches = cycle([(k_cache, v_cache), *(cache() for _ in range(copies(needed, device) - 1))])
    tables = (torch.randperm(batch * pages, device=device) + 1).view(batch, pages).to(torch.int32)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    scale, group = shape.head_dim**-0.5, shape.num_heads // shape.num_kv_heads
    q = torch.randn(batch, shape.num_heads, shape.head_dim, device=device, dtype=dtype)
    dense_k, dense_v = (
        torch.randn(batch, shape.num_kv_heads, context, shape.head_dim, device=device, dtype=dtype) for _ in range(2)
    )
    yield Operation(
        "decode_attention",
        size,
        lambda: decode_attention(q, *next(caches), tables, lens, scale, context),
        decode_attention_cost([context] * batch, heads, shape.head_dim, item, item),
        # SDPA over contiguous K and V: the queries of a KV head stand as rows, which a single query allows.
        lambda: F.scaled_dot_product_attention(
            q.view(batch, shape.num_kv_heads, group, shape.head_dim), dense_k, dense_v
        ),
    )
    if batch == 1:
        tokens = min(512, context)
        queries = torch.randn(tokens, shape.num_heads, shape.head_dim, device=device, dtype=dtype)
        cu_q = torch.tensor([0, tokens], dtype=torch.int32, device=device)
        yield Operation(
            "prefill_attention",
            f"{tokens}@{context}",
            lambda: prefill_attention(queries, k_cache, v_cache, tables, lens, cu_q, tokens, scale, context),
            prefill_attention_cost([(tokens, context)], heads, shape.head_dim, item, item),
        )


def layers(shape: Shape, batch: int, context: int, device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """All layers of a decode step in one native call, as the engine runs them on a CPU, and the parts of a layer."""
    heads, item = (shape.num_heads, shape.num_kv_heads), dtype.itemsize
    hidden, queries = shape.hidden_size, shape.num_heads * shape.head_dim
    width = queries + 2 * shape.num_kv_heads * shape.head_dim
    sizes = {
        "qkv": (width, hidden),
        "output": (hidden, queries),
        "gate_up": (2 * shape.intermediate_size, hidden),
        "down": (hidden, shape.intermediate_size),
    }
    pages = -(-context // _PAGE)
    page = (batch * pages + 1, shape.num_kv_heads, _PAGE, shape.head_dim)
    if device.type != "cpu" or not native_decoder.LOADED:
        return
    needed = shape.num_layers * (sum(out * inner for out, inner in sizes.values()) + 2 * prod(page)) * item
    if needed > 2**32:
        print(f"layers {batch}x{context}: {needed / 2**30:.1f} GiB of weights and cache, left out")
        return
    tables = (torch.randperm(batch * pages) + 1).view(batch, pages).int()
    positions = torch.full((batch,), context - 1)
    slots = tables[:, -1].long() * _PAGE + (context - 1) % _PAGE
    lens, cu_q = torch.full((batch,), context, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)

    def decoder() -> NativeDecoder:
        ones = torch.ones(hidden, dtype=dtype)
        own = [
            Layer(
                input_norm=ones,
                mlp_norm=ones,
                **{
                    name: pack(LinearWeight(torch.randn(out, inner, dtype=dtype) / inner**0.5))
                    for name, (out, inner) in sizes.items()
                },
            )
            for _ in range(shape.num_layers)
        ]
        kv = [new_pages(page, dtype, device) for _ in range(shape.num_layers)]
        cos_sin = torch.randn(context, shape.head_dim)
        return NativeDecoder(own, ones, cos_sin, kv, heads, 1e-6, shape.head_dim**-0.5, native.decoder)

    x, turn = torch.randn(batch, hidden, dtype=dtype), cycle([decoder() for _ in range(copies(needed, device))])
    costs = {name: linear_cost(batch, out, inner, item) for name, (out, inner) in sizes.items()}
    costs["attention"] = decode_attention_cost([context] * batch, heads, shape.head_dim, item, item)

    def forward(seconds: torch.Tensor | None = None) -> object:
        return next(turn).forward(x.clone(), positions, slots, tables, lens, cu_q, batch, seconds)

    size = f"{batch}x{context}"
    moved, flops = (sum(cost) * shape.num_layers for cost in zip(*costs.values(), strict=True))
    yield Operation(LAYERS[0], size, forward, (moved, flops))
    calls = max(10, 4 * _COLD_BYTES // moved)  # some tens of milliseconds
    clocks = torch.zeros(calls, len(native_decoder.PARTS), dtype=torch.float64)
    for clock in clocks:
        forward(clock)
    moved, flops = rms_norm_cost(batch, hidden, item, False)
    costs["norm"] = 2 * moved, 2 * flops
    costs["append"] = rope_append_cost(batch, heads, shape.head_dim, item, item)
    for name, part, seconds in zip(LAYERS[1:], native_decoder.PARTS, clocks.T.tolist(), strict=True):
        yield Operation(name, size, statistics.median(seconds) / shape.num_layers, costs[part])


def _least_seconds() -> float:
    """Seconds that calls are repeated for."""
    return 0.1 if stand_in.card() is None else 0.0


def figures(operation: Operation, ceilings: Ceilings, device: torch.device, against: bool) -> dict[str, float | None]:
    """Time the operation; `share` is (least possible time) / (time taken), by bandwidth or compute, which binds.
    `reads_us` is what reading the weight alone takes, by the same kind of call: where it is 1 MB the call shows."""
    if isinstance(operation.call, float):
        seconds = operation.call
    else:
        seconds = repeat(operation.call, device, min_seconds=_least_seconds()).median
    moved, flops = operation.cost
    limits = ceilings.limits_of(device)
    least = max(moved / limits.bandwidth, flops / limits.flops)
    found: dict[str, float | None] = {
        "us": seconds * 1e6,
        "GBps": moved / seconds / 1e9,
        "TFLOPps": flops / seconds / 1e12,
        "share": least / seconds,
    }
    if operation.reads is not None:
        found["reads_us"] = repeat(operation.reads, device, min_seconds=_least_seconds()).median * 1e6
    if against and operation.torch is not None:
        found["torch_us"] = repeat(operation.torch, device, min_seconds=_least_seconds()).median * 1e6
    return found


def main(options: Options) -> None:
    """Measure the ceilings, then every operator; print the table, append the records."""
    torch.set_num_threads(options.threads)
    there = torch.cuda.is_available() or stand_in.card() is not None
    name = options.device if options.device != "auto" else "cuda" if there else "cpu"
    device = stand_in.device(name)
    shape_name = options.shape or ("qwen2.5-32b" if name == "cuda" else "qwen2.5-0.5b")
    if shape_name not in SHAPES:
        raise SystemExit(f"bench.kernels: --shape is {shape_name!r}; give one of {', '.join(SHAPES)}")
    dtype = getattr(torch, options.dtype or ("bfloat16" if name == "cuda" else "float32"))
    ceilings, machine = measure(torch.device(name)), record.Machine.read(torch.device(name))
    table = Table(title=f"{machine.device}, {shape_name}, {dtype}".replace("torch.", ""))
    for column in ("operator", "size", "us", "GB/s", "TFLOP/s", "share", "reads us", "torch us"):
        table.add_column(column, justify="left" if column in ("operator", "size") else "right")
    shape = stand_in.shape(shape_name)
    lines = record.known(options.output, "kernels", torch.device(name)) if options.resume else []
    known = [line.case for line in lines]
    for batch in options.batch:
        sources = [rows(shape, batch, device, dtype)]
        sources += [attention(shape, batch, context, device, dtype) for context in options.context]
        if name == "cpu" and any(options.only in operator for operator in LAYERS):
            contexts = dict.fromkeys((128, *options.context))
            sources += [layers(shape, batch, context, device, dtype) for context in contexts]
        for operation in (operation for source in sources for operation in source):
            wanted = options.only in operation.name
            if name == "cpu" and (wanted or operation.name == LAYERS[0]) and not isinstance(operation.call, float):
                ceilings = later(ceilings, device)  # the parts of `layers` are judged by what it was judged by
            case = {"operator": operation.name, "size": operation.size, "shape": shape_name, "dtype": str(dtype)[6:]}
            if not wanted or case in known:
                continue
            found = figures(operation, ceilings, device, "torch" in options.against)
            found |= {"read_GBps": ceilings.read / 1e9}
            shown = [
                found["us"],
                found["GBps"],
                found["TFLOPps"],
                found["share"],
                found.get("reads_us"),
                found.get("torch_us"),
            ]
            table.add_row(operation.name, operation.size, *("" if v is None else f"{v:.3g}" for v in shown))
            if options.output is not None:
                record.append(machine.record("kernels", case, found), options.output)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.kernels", description=__doc__))
