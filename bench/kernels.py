"""`python -m bench.kernels`: each operator alone: us, GB/s or TFLOP/s, and its share of the ceiling of the same run.

Memory is cold: on a GPU the L2 cache is flushed before every call, on a CPU each call takes the next of so many copies
of its weight or cache that they take 512 MiB. `--against torch` adds torch's own way to do the same work.

On a CPU `layers` is what the engine calls, all layers of a step, and `layers: qkv` and the like are its parts: the
operators inside that call, by a clock of its own, for one layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle
from math import prod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.console import Console

from bench import ceilings, record, shapes, stand_in, timing
from bench.command import Resumed, check, columns, command
from kernels import decode_inputs, embedding, linear, paged, rms_norm, rope_append, sampler, silu_mul, thinking, weights
from kernels.attention import decode_attention, decode_attention_cost, prefill_attention, prefill_attention_cost
from kernels.native import decoder, library

_PAGE = 64
LAYERS = ("layers", *(f"layers: {part}" for part in decoder.PARTS))
"""The operations of `layers`: the call, and the parts of a layer inside it."""
_COLUMNS = {
    "us": "us",
    "GB/s": "GBps",
    "TFLOP/s": "TFLOPps",
    "share": "share",
    "reads us": "reads_us",
    "torch us": "torch_us",
}
"""Figures of the table by their titles."""
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


@dataclass(frozen=True, kw_only=True)
class Options(Resumed):
    """Defaults: Qwen2.5-32B in bf16 on a GPU, Qwen2.5-0.5B in float32 on a CPU."""

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


def copies(nbytes: int, device: torch.device) -> int:
    """How many copies of an input of `nbytes` calls take in turn."""
    return 1 if device.type == "cuda" or stand_in.card() is not None else -(-_COLD_BYTES // nbytes)


def rows(shape: shapes.Shape, batch: int, device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """The operators whose cost follows the tokens of a step."""
    hidden, features, heads = shape.hidden_size, shape.intermediate_size, (shape.num_heads, shape.num_kv_heads)
    item, width = dtype.itemsize, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, device=device, dtype=dtype) / sizes[-1] ** 0.5

    def gated(y: torch.Tensor) -> torch.Tensor:
        return F.silu(y[:, :features]) * y[:, features:]

    x, residual, gain, gate_up = (
        random(batch, hidden),
        random(batch, hidden),
        random(hidden),
        random(batch, 2 * features),
    )
    table, ids = random(shape.vocab_size, hidden), torch.arange(batch, device=device) * 97 % shape.vocab_size
    k_cache, v_cache = (random(batch + 1, shape.num_kv_heads, _PAGE, shape.head_dim) for _ in range(2))
    qkv, slots = random(batch, width), torch.arange(1, batch + 1, device=device) * _PAGE
    cos_sin, positions = torch.randn(64, shape.head_dim, device=device), torch.arange(batch, device=device) % 64
    yield from (
        Operation(
            "rms_norm+add",
            f"{batch}x{hidden}",
            lambda: rms_norm.rms_norm(x, gain, 1e-6, residual),
            rms_norm.rms_norm_cost(batch, hidden, item),
            lambda: F.rms_norm(x + residual, (hidden,), gain, 1e-6),
        ),
        Operation(
            "silu_mul",
            f"{batch}x{features}",
            lambda: silu_mul.silu_mul(gate_up),
            silu_mul.silu_mul_cost(batch, features, item),
            lambda: gated(gate_up),
        ),
        Operation(
            "embedding",
            f"{batch}x{hidden}",
            lambda: embedding.embedding(ids, table),
            embedding.embedding_cost(batch, hidden, item),
            lambda: F.embedding(ids, table),
        ),
        Operation(
            "rope_append",
            f"{batch}x{width}",
            lambda: rope_append.rope_append(qkv, cos_sin, positions, slots, k_cache, v_cache, heads),
            rope_append.rope_append_cost(batch, heads, shape.head_dim, item, item),
        ),
    )
    pages = 65536 // _PAGE
    tables = torch.zeros(batch + 1, pages, dtype=torch.int32, device=device)
    state = torch.ones(batch + 1, len(thinking.State), dtype=torch.int32, device=device)
    history = torch.zeros(batch + 1, 64, dtype=torch.int32, device=device)
    entered = torch.zeros(3, batch, dtype=torch.int64, device=device)
    yield Operation(
        "decode_inputs",
        f"{batch}x{pages}",
        lambda: decode_inputs.decode_inputs(entered, state, history, tables, _PAGE, pages),
        decode_inputs.decode_inputs_cost(batch, pages),
    )
    logits = torch.empty(batch, shape.vocab_size)
    for name, out, inner, ours, theirs in (
        ("linear qkv", width, hidden, linear.linear, F.linear),
        ("linear o", hidden, shape.num_heads * shape.head_dim, linear.linear, F.linear),
        ("linear down", hidden, features, linear.linear, F.linear),
        ("linear_silu_mul", 2 * features, hidden, linear.linear_silu_mul, lambda a, w: gated(F.linear(a, w))),
        ("head", shape.vocab_size, hidden, lambda a, w: linear.head(a, w, logits), lambda a, w: F.linear(a, w).float()),
    ):
        a, w = random(batch, inner), weights.LinearWeight(table if name == "head" else random(out, inner))
        packed = [linear.pack(w) for _ in range(copies(w.weight.nbytes, device))]
        turn = cycle(packed)
        yield Operation(
            name,
            f"{batch}x{out}x{inner}",
            lambda a=a, turn=turn, ours=ours: ours(a, next(turn)),
            linear.linear_cost(batch, out, inner, item, 4 if name == "head" else None),
            lambda a=a, w=w, theirs=theirs: theirs(a, w.weight),
            None if packed[0].packed is None else lambda turn=turn: library.read(next(turn).panels.data),
        )


def steps(vocab: int, batch: int, device: torch.device) -> Iterator[Operation]:
    """Sampling and the thinking machine, in plain states."""
    zeros = partial(torch.zeros, dtype=torch.int32, device=device)
    machine = thinking.MachineTables(
        zeros(batch, len(thinking.State)),
        zeros(batch, len(thinking.Param)),
        zeros(batch, len(thinking.Text), 8),
        zeros(batch, 1) - 1,
        zeros(batch, 1),
        zeros(batch, 1) - 1,
        zeros(batch, 4096),
        zeros(2) - 1,
        zeros(vocab, dtype=torch.uint8),
    )
    machine.params[:, [thinking.Param.BUDGET, thinking.Param.MAX_TOKENS, thinking.Param.MAX_CONTEXT]] = 2**30
    real, slots = torch.ones(batch, len(sampler.Real), device=device), torch.arange(batch, device=device)
    real[:, sampler.Real.MIN_P] = 0
    logits = torch.randn(batch, vocab, device=device) * 4
    for label, needs, top_p in (
        ("greedy", sampler.SamplingNeeds(masked=True), 1.0),
        ("gumbel", sampler.SamplingNeeds(noise=True, masked=True), 1.0),
        ("top-p", sampler.SamplingNeeds(noise=True, filters=True, masked=True), 0.95),
    ):
        chosen = sampler.SamplingTables(real.clone(), zeros(batch, len(sampler.Whole)))
        chosen.real[:, sampler.Real.TOP_P] = top_p
        yield Operation(
            f"sample {label}",
            f"{batch}x{vocab}",
            lambda chosen=chosen, needs=needs: sampler.sample(logits, chosen, machine, slots, vocab, needs),
            sampler.sample_cost(batch, vocab),
            lambda: torch.argmax(logits, 1),
        )
    draw, bad = torch.ones(batch, dtype=torch.int64, device=device), zeros(batch, dtype=torch.bool)

    def step() -> None:
        machine.state[:, thinking.State.LENGTH] = 1  # so that the history never fills up
        thinking.thinking_step(machine, slots, draw, draw, bad)

    yield Operation("thinking_step", f"{batch}", step, thinking.thinking_step_cost(batch))


def attention(
    shape: shapes.Shape, batch: int, context: int, device: torch.device, dtype: torch.dtype
) -> Iterator[Operation]:
    """Decode over `batch` rows of `context` keys, and at batch 1 a prefill of 512 tokens at their end."""
    heads, item = (shape.num_heads, shape.num_kv_heads), dtype.itemsize
    size, context = f"{batch}x{context}", stand_in.tokens(context)
    pages = -(-context // _PAGE)
    sizes = (batch * pages + 1, shape.num_kv_heads, _PAGE, shape.head_dim)
    needed = 2 * prod(sizes) * item
    if needed > (2**31 if device.type == "cpu" else 2**35):
        print(f"attention {size}: {needed / 2**30:.1f} GiB of cache, left out")
        return

    empty = paged.new_pages(copies(needed, device), sizes, dtype, device)
    caches = [(keys.normal_(), values.normal_()) for keys, values in empty]
    turn = cycle(caches)
    tables = (torch.randperm(batch * pages, device=device) + 1).view(batch, pages).to(torch.int32)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    random, scale = partial(torch.randn, device=device, dtype=dtype), shape.head_dim**-0.5
    q = random(batch, shape.num_heads, shape.head_dim)
    dense_k, dense_v = (random(batch, shape.num_kv_heads, context, shape.head_dim) for _ in range(2))
    yield Operation(
        "decode_attention",
        size,
        lambda: decode_attention(q, *next(turn), tables, lens, scale, context),
        decode_attention_cost([context] * batch, heads, shape.head_dim, item, item),
        # SDPA over contiguous K and V: the queries of a KV head stand as rows, which a single query allows.
        lambda: F.scaled_dot_product_attention(q.view(batch, shape.num_kv_heads, -1, shape.head_dim), dense_k, dense_v),
    )
    if batch == 1:
        tokens = min(512, context)
        queries = random(tokens, shape.num_heads, shape.head_dim)
        cu_q = torch.tensor([0, tokens], dtype=torch.int32, device=device)
        yield Operation(
            "prefill_attention",
            f"{tokens}@{context}",
            lambda: prefill_attention(queries, *caches[0], tables, lens, cu_q, tokens, scale, context),
            prefill_attention_cost([(tokens, context)], heads, shape.head_dim, item, item),
        )


def layers(
    shape: shapes.Shape, batch: int, context: int, device: torch.device, dtype: torch.dtype
) -> Iterator[Operation]:
    """All layers of a decode step in one native call, as the engine runs them on a CPU, and the parts of a layer."""
    heads, item = (shape.num_heads, shape.num_kv_heads), dtype.itemsize
    hidden, queries = shape.hidden_size, shape.num_heads * shape.head_dim
    sizes = {
        "qkv": (queries + 2 * shape.num_kv_heads * shape.head_dim, hidden),
        "output": (hidden, queries),
        "gate_up": (2 * shape.intermediate_size, hidden),
        "down": (hidden, shape.intermediate_size),
    }
    pages = -(-context // _PAGE)
    page = (batch * pages + 1, shape.num_kv_heads, _PAGE, shape.head_dim)
    needed = shape.num_layers * (sum(out * inner for out, inner in sizes.values()) + 2 * prod(page)) * item
    if needed > 2**32:
        print(f"layers {batch}x{context}: {needed / 2**30:.1f} GiB of weights and cache, left out")
        return
    tables = (torch.randperm(batch * pages) + 1).view(batch, pages).int()
    positions = torch.full((batch,), context - 1)
    slots = tables[:, -1].long() * _PAGE + (context - 1) % _PAGE
    lens, cu_q = torch.full((batch,), context, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)

    def model() -> decoder.NativeDecoder:
        ones = torch.ones(hidden, dtype=dtype)

        def product(name: str) -> weights.LinearWeight:
            out, inner = sizes[name]
            return linear.pack(weights.LinearWeight(torch.randn(out, inner, dtype=dtype) / inner**0.5))

        own = [
            decoder.Layer(
                input_norm=ones,
                mlp_norm=ones,
                qk_norm=torch.ones(2, shape.head_dim, dtype=dtype) if shape.qk_norm else None,
                **{name: product(name) for name in ("qkv", "output", "gate_up", "down")},
            )
            for _ in range(shape.num_layers)
        ]
        kv, cos_sin = paged.new_pages(len(own), page, dtype, device), torch.randn(context, shape.head_dim)
        return decoder.NativeDecoder(own, ones, cos_sin, kv, heads, 1e-6, shape.head_dim**-0.5, library.decoder)

    x, turn = torch.randn(batch, hidden, dtype=dtype), cycle([model() for _ in range(copies(needed, device))])
    costs = {name: linear.linear_cost(batch, out, inner, item) for name, (out, inner) in sizes.items()} | {
        "attention": decode_attention_cost([context] * batch, heads, shape.head_dim, item, item)
    }

    def forward(seconds: torch.Tensor | None = None) -> object:
        return next(turn).forward(x.clone(), positions, slots, tables, lens, cu_q, batch, seconds)

    size = f"{batch}x{context}"
    moved, flops = (sum(cost) * shape.num_layers for cost in zip(*costs.values(), strict=True))
    yield Operation(LAYERS[0], size, forward, (moved, flops))
    # some tens of milliseconds
    clocks = torch.zeros(max(10, 4 * _COLD_BYTES // moved), len(decoder.PARTS), dtype=torch.float64)
    for clock in clocks:
        forward(clock)
    moved, flops = rms_norm.rms_norm_cost(batch, hidden, item, False)
    costs |= {
        "norm": (2 * moved, 2 * flops),
        "append": rope_append.rope_append_cost(batch, heads, shape.head_dim, item, item),
    }
    seconds = (clocks.quantile(0.5, dim=0) / shape.num_layers).tolist()  # the median of each
    for name, part, median in zip(LAYERS[1:], decoder.PARTS, seconds, strict=True):
        yield Operation(name, size, median, costs[part])


def figures(operation: Operation, rates: ceilings.Ceilings, device: torch.device, against: bool) -> dict[str, float]:
    """Time the operation; `share` is (least possible time) / (time taken), by bandwidth or compute, which binds.
    `reads_us` is what reading the weight alone takes, by the same kind of call: where it is 1 MB the call shows."""

    def timed(call: Callable[[], object]) -> float:
        return timing.repeat(call, device, min_seconds=0.1 if stand_in.card() is None else 0.0).median

    (moved, flops), limits = operation.cost, rates.limits_of(device)
    seconds = operation.call if isinstance(operation.call, float) else timed(operation.call)
    beside = {"reads_us": operation.reads, "torch_us": operation.torch if against else None}
    return {
        "us": seconds * 1e6,
        "GBps": moved / seconds / 1e9,
        "TFLOPps": flops / seconds / 1e12,
        "share": max(moved / limits.bandwidth, flops / limits.flops) / seconds,
        **{name: timed(call) * 1e6 for name, call in beside.items() if call is not None},
    }


def main(options: Options) -> None:
    """Measure the ceilings, then every operator; print the table, append the records."""
    torch.set_num_threads(options.threads)
    here = "cuda" if torch.cuda.is_available() or stand_in.card() is not None else "cpu"
    name = here if options.device == "auto" else options.device
    asked, device = torch.device(name), stand_in.device(name)
    shape_name = options.shape or ("qwen2.5-32b" if name == "cuda" else "qwen2.5-0.5b")
    check(shape_name not in shapes.SHAPES and f"--shape is {shape_name!r}; give one of {', '.join(shapes.SHAPES)}")
    dtype = getattr(torch, options.dtype or ("bfloat16" if name == "cuda" else "float32"))
    rates, machine, shape = ceilings.measure(asked), record.Machine.read(asked), stand_in.shape(shape_name)
    table = columns(
        *("operator", "size", *_COLUMNS),
        title=f"{machine.device}, {shape_name}, {str(dtype)[6:]}",
        left=(0, 1),
    )
    known = [line.case for line in options.known("kernels", asked)]
    for batch in options.batch:
        sources = [
            rows(shape, batch, device, dtype),
            steps(shape.vocab_size, batch, device),
            *(attention(shape, batch, context, device, dtype) for context in options.context),
        ]
        if name == "cpu" and decoder.LOADED and any(options.only in operator for operator in LAYERS):
            sources += [layers(shape, batch, n, device, dtype) for n in dict.fromkeys((128, *options.context))]
        for operation in chain.from_iterable(sources):
            wanted = options.only in operation.name
            if name == "cpu" and (wanted or operation.name == LAYERS[0]) and not isinstance(operation.call, float):
                rates = ceilings.later(rates, device)  # the parts of `layers` are judged by what it was judged by
            case = {"operator": operation.name, "size": operation.size, "shape": shape_name, "dtype": str(dtype)[6:]}
            if wanted and case not in known:
                found = figures(operation, rates, device, "torch" in options.against)
                table.add_row(
                    operation.name,
                    operation.size,
                    *(f"{found[key]:.3g}" if key in found else "" for key in _COLUMNS.values()),
                )
                machine.write(options.output, "kernels", case, found | {"read_GBps": rates.read / 1e9})
    Console().print(table)


if __name__ == "__main__":
    command(Options, main)
