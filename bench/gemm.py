"""`python -m bench.gemm`: cuBLAS against `kernels.small_gemm` for each product of a decode step; the table of choices.

A product is timed twice in its place in a layer: where the products beside it are ours (`ours`: the norm in front of
qkv and gate_up, the residual and what the next norm needs behind o and down are folded in), and where they are not
(`alone`: norms are launches). The rival is cuBLAS, with `rms_norm` and `silu_mul` beside it; for weights of 8 bits,
which cuBLAS does not take, `small_gemm` in its default configuration. In front of all runs an RMSNorm, in one captured
graph with a cold L2 cache; the time is that of the graph less this norm. So a dependent launch (`GemmConfig.prefetch`),
which starts during it, shows what it gains.

The fastest configuration that gives the definition's result is recorded beside the rival. `--table` writes rows into
that file, with `--no-measure` from what `--output` has: o with gate_up and down with qkv are decided together, as a
norm between them is folded where both are ours. The engine reads `kernels/gemm_choices.json`, or what S1_GEMM_TABLE
names.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from bench import ceilings, record, shapes, stand_in, timing
from bench.command import Resumed, check, columns, command
from kernels import INTERPRET, aot, language, rms_norm, silu_mul, small_gemm
from kernels.gemm_choices import PREFETCH, RULES, Choice, Product, read_choices, write_choices
from kernels.linear import linear_cost
from kernels.quantize import FLOAT8, QuantizedMatrix, decode

_MARGIN = 0.98
"""A configuration must take less than this of the rival's time: closer is noise."""
_EPS = 1e-6
_PREFETCHES = (2, PREFETCH, 8)
_PAIRS = (("o", "gate_up"), ("down", "qkv"), ("head",))
"""What is decided together: the products on both sides of a norm."""
_SHOWN = "{block_out}x{block_in} split {split_k} warps {num_warps} stages {num_stages} ahead {prefetch}"
_PROGRAMS = (132, 264, 528)
"""What split-K aims at: one, two and four programs on each multiprocessor of an H100 or H200."""
_SHARED = aot.SHARED_LIMIT - 8 * 1024
"""Bytes that the tiles in flight may take."""


WEIGHTS = {"bfloat16": torch.bfloat16, "int8": torch.int8, "fp8": FLOAT8}


@dataclass(frozen=True)
class Linear:
    """One product of a decode step: weight [out, inner]; of the gated one `out` counts gate and up rows."""

    name: str
    product: Product
    out: int
    inner: int
    bias: bool = False
    normed: bool = False
    """A norm is in front of it."""
    adds: bool = False
    """The residual is added to it, and a norm is behind it."""


@dataclass(frozen=True, kw_only=True)
class Options(Resumed):
    """Which products of which model to time, and the table that the winners go to."""

    shape: str = "qwen2.5-32b"
    """A name of `bench.shapes.SHAPES`."""
    ranks: int = 1
    """Tensor-parallel ranks: the shapes are those of one of them."""
    tokens: tuple[int, ...] = (1, 8, 32, 64)
    """Batches to time; a row holds from the one before it on."""
    weights: Literal["bfloat16", "int8", "fp8"] = "bfloat16"
    """Type of the weights' values (float32 in the interpreter instead of bfloat16)."""
    only: tuple[Literal["qkv", "o", "gate_up", "down", "head"], ...] = ()
    measure: bool = True
    table: Path | None = None
    """The table to write the winners into (kernels/gemm_choices.json is the one in use); needs `output`."""


def linears(shape: shapes.Shape, ranks: int) -> tuple[Linear, ...]:
    """The products of one rank, in a layer's order, the head last."""
    hidden, features, dim = shape.hidden_size, shape.intermediate_size // ranks, shape.head_dim
    heads, kv_heads = shape.num_heads // ranks, max(1, shape.num_kv_heads // ranks)
    folds = ranks == 1  # else a sum over ranks is between a product and the norm
    return (
        Linear("qkv", Product.PLAIN, (heads + 2 * kv_heads) * dim, hidden, bias=True, normed=folds),
        Linear("o", Product.PLAIN, hidden, heads * dim, adds=folds),
        Linear("gate_up", Product.GATED, 2 * features, hidden, normed=folds),
        Linear("down", Product.PLAIN, hidden, features, adds=folds),
        Linear("head", Product.HEAD, language.cdiv(shape.vocab_size, ranks), hidden),
    )


def candidates(linear: Linear, tokens: int, weight: torch.dtype) -> Iterator[small_gemm.GemmConfig]:
    """What is tried, plain launches: the default, then four tiles with the splits of K that fill the device."""
    gated = linear.product is Product.GATED
    default = small_gemm.default_config((linear.out, linear.inner), tokens, weight.itemsize, gated)
    yield default
    for out, inner, warps in ((64, 128, 4), (64, 256, 4), (128, 64, 8), (128, 128, 8)):
        columns = max(16, language.next_power_of_2(tokens)) * max(weight.itemsize, 2)
        stages = min(5, _SHARED // ((out * weight.itemsize * (1 + gated) + columns) * inner))
        blocks = language.cdiv(linear.out // (1 + gated), out)
        wanted = {split for programs in _PROGRAMS for split in (programs // blocks, language.cdiv(programs, blocks))}
        most = language.cdiv(linear.inner, inner) // 4
        for split in sorted({1, *(split for split in wanted if 1 < split <= most)}):
            config = small_gemm.GemmConfig(out, inner, split, warps, stages)
            wide = gated and inner == 256 and split > 1  # more instructions than anyone waits for
            if config != default and stages > 1 and not wide:
                yield config


class Race:
    """One product at one number of tokens: its inputs, the rival's way and ours, and their times."""

    def __init__(self, linear: Linear, tokens: int, device: torch.device, dtype: torch.dtype, codes: bool) -> None:
        """`dtype` is that of the weight's values, where they are `codes` of 8 bits, too."""
        self.linear, self.device = linear, device
        own = (torch.bfloat16 if device.type == "cuda" else torch.float32) if codes else dtype
        random = partial(torch.randn, device=device, dtype=own)
        self.x, self.gain = random(tokens, linear.inner), torch.ones(linear.inner, device=device, dtype=own)
        parts = F.pad(self.x.float().square(), (0, -linear.inner % 64)).unflatten(1, (-1, 64)).sum(2)
        self.squares = parts.contiguous() if linear.normed else None
        matrix = random(linear.out, linear.inner) / linear.inner**0.5
        self.weight, self.scale = matrix, None
        if codes:
            quantized = QuantizedMatrix.empty(linear.out, linear.inner, dtype, own, device)
            quantized.fill(matrix)
            self.weight, self.scale = quantized.codes, quantized.scale
        self.bias = random(linear.out) if linear.bias else None
        self.residual = random(tokens, linear.out) if linear.adds else None
        self.next_gain = random(linear.out) if linear.adds else None
        self.want = self._definition()
        self.norm_seconds = self._seconds(self._norm)

    def ours(self, x: Tensor, config: small_gemm.GemmConfig) -> Tensor:
        """The kernel in one configuration, as a layer launches it where the products beside this one are ours too."""
        linear = self.linear
        given = x if self.squares is None else small_gemm.Scaled(x, self.squares, _EPS)
        gated, wide = linear.product is Product.GATED, linear.product is Product.HEAD
        weight, scale, gain = self.weight, self.scale, self.next_gain
        return small_gemm.small_gemm(
            given, weight, config, self.bias, self.residual, scale, gated, wide, gain=gain, eps=_EPS
        )[0]

    def alone(self, x: Tensor, config: small_gemm.GemmConfig) -> Tensor:
        """The kernel where the products beside it are not ours: a norm in front is a launch, one behind it adds."""
        x, product = self._normed(x), self.linear.product
        gated, wide = product is Product.GATED, product is Product.HEAD
        return small_gemm.small_gemm(x, self.weight, config, self.bias, None, self.scale, gated, wide)[0]

    def rival(self, x: Tensor) -> Tensor:
        """What runs where the table has no row."""
        linear = self.linear
        if self.scale is not None:
            return self.alone(x, next(candidates(linear, len(x), self.weight.dtype)))
        if linear.product is Product.HEAD and x.is_cuda and x.dtype != torch.float32:
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32)  # type: ignore[call-overload,no-any-return]
        y = F.linear(self._normed(x), self.weight, self.bias)
        return silu_mul.silu_mul_triton(y) if linear.product is Product.GATED else y

    def _normed(self, x: Tensor) -> Tensor:
        return rms_norm.rms_norm_triton(x, self.gain, _EPS)[0] if self.linear.normed else x

    def _definition(self) -> Tensor:
        """Of `ours`, in float32."""
        x = rms_norm.rms_norm_reference(self.x.float(), self.gain, _EPS)[0] if self.linear.normed else self.x.float()
        weight = self.weight.float() if self.scale is None else decode(self.weight, self.scale)
        y = F.linear(x, weight, None if self.bias is None else self.bias.float())
        y = y if self.residual is None else y + self.residual.float()
        return silu_mul.silu_mul_reference(y) if self.linear.product is Product.GATED else y

    def added(self, call: Callable[[Tensor], object], early: bool = False) -> float:
        """Seconds that a call adds to the norm in front of it; `early`: which lets it start before it ends."""
        return self._seconds(lambda: call(self._norm(early))) - self.norm_seconds

    def our_seconds(self, configs: Iterable[small_gemm.GemmConfig]) -> dict[small_gemm.GemmConfig, float]:
        """What each adds to the norm; those whose result is not the definition's are left out."""
        times = {}
        for config in configs:
            run = partial(self.ours, config=config)
            error = (run(self.x).float() - self.want).abs().max() / self.want.abs().max()
            if error < 2e-2:
                times[config] = self.added(run, early=config.prefetch > 0)
            else:
                print(f"{self.linear.name}, {len(self.x)} tokens: {config} is wrong by {float(error):.3g}; left out")
        return times

    def best(self) -> tuple[small_gemm.GemmConfig, float] | None:
        """The fastest candidate, then with its weight on the way before the norm ends, where the device has that."""
        rehearsed = stand_in.card() is not None
        right = self.our_seconds(
            itertools.islice(candidates(self.linear, len(self.x), self.weight.dtype), 1 if rehearsed else None)
        )
        dependent = self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) >= (9, 0)
        if right and dependent and not rehearsed:
            first = min(right, key=right.__getitem__)
            right |= self.our_seconds(replace(first, prefetch=prefetch) for prefetch in _PREFETCHES)
        return min(right.items(), key=lambda timed: timed[1], default=None)

    def _norm(self, early: bool = False) -> Tensor:
        return rms_norm.rms_norm_triton(self.x, self.gain, _EPS, follows=early)[0]

    def _seconds(self, call: Callable[[], object]) -> float:
        calls, seconds = (5, 0.05) if self.device.type == "cuda" else (1, 0.0)  # the interpreter's times say nothing
        return timing.repeat(captured(call, self.device), self.device, min_calls=calls, min_seconds=seconds).median


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`call` as a CUDA graph, so that no launch is waited for; on a CPU as it is."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call()  # compile, and make what stays
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def choices_of(records: list[record.Record]) -> list[Choice]:
    """The rows where the kernel won; each holds from the batch timed before its own, whoever won there, to its own."""
    lines = {(*_timed(line), line.case["tokens"]): line for line in records}  # the last one of each counts
    groups: dict[tuple[Any, ...], dict[str, record.Record]] = {}
    for line in lines.values():
        key = line.device, *(line.case[name] for name in ("weight", "shape", "ranks", "tokens"))
        groups.setdefault(key, {})[line.case["name"]] = line
    found = []
    for group, pair in itertools.product(groups.values(), _PAIRS):
        for line, ours in _winners([group[name] for name in pair if name in group], len(pair)):
            key, tokens = _timed(line), line.case["tokens"]
            device, product, weight, out, inner = key
            below = max((other[-1] for other in lines if other[:-1] == key and other[-1] < tokens), default=0)
            config = small_gemm.GemmConfig(
                **{field.name: int(line.figures[field.name] or 0) for field in fields(small_gemm.GemmConfig)}
            )
            rival = line.figures["rival_us"] or 0.0
            found.append(Choice(device, Product(product), out, inner, tokens, config, ours, rival, weight, below + 1))
    return found


def _winners(lines: list[record.Record], together: int) -> list[tuple[record.Record, float]]:
    """Of products that are decided together, those that are ours where the sum is least, each with its time there."""

    def times(ours: tuple[record.Record, ...]) -> list[float]:
        kind = "ours_us" if len(ours) == together else "alone_us"
        return [float(line.figures[kind if line in ours else "rival_us"] or 0.0) for line in lines]

    right = [line for line in lines if line.figures["ours_us"] is not None]
    ways = [way for count in range(len(right) + 1) for way in itertools.combinations(right, count)]
    best = min(ways, key=lambda way: sum(times(way)))
    if sum(times(best)) >= _MARGIN * sum(times(())):
        return []
    return [(line, seconds) for line, seconds in zip(lines, times(best), strict=True) if line in best]


def _timed(line: record.Record) -> tuple[str, str, str, int, int]:
    return line.device, line.case["product"], line.case["weight"], line.case["out"], line.case["inner"]


def merge(found: list[Choice], records: list[record.Record], table: Path) -> None:
    """Put `found` into the table in place of all rows of the shapes that `records` timed."""
    timed = {_timed(line) for line in records}
    kept = [
        row
        for row in (read_choices(table) if table.exists() else ())
        if (row.device, row.product.value, row.weight, row.out_features, row.in_features) not in timed
    ]
    write_choices(kept + found, table)


def run(options: Options, device: torch.device, console: Console) -> None:
    """Time what is asked for, print and append it."""
    dtype, codes = WEIGHTS[options.weights], options.weights != "bfloat16"
    dtype = torch.float32 if device.type != "cuda" and not codes else dtype
    asked = torch.device("cuda") if stand_in.card() is not None else device
    machine, bandwidth = record.Machine.read(asked), ceilings.measure(asked).limits_of(device).bandwidth
    known = [line.case for line in options.known("gemm", asked)]
    rivals = "default" if codes else "cuBLAS"
    table = columns(
        *("product", "tokens", f"{rivals} us", f"{rivals}, share", "ours us", "ours, share", "configuration"),
        title=f"{machine.device}, {options.shape}, {options.weights}, {bandwidth / 1e9:,.0f} GB/s",
        left=(0, 6),
    )
    for linear, tokens in itertools.product(linears(stand_in.shape(options.shape), options.ranks), options.tokens):
        case = {
            "name": linear.name,
            "product": linear.product.value,
            "out": linear.out,
            "inner": linear.inner,
            "tokens": tokens,
            "shape": options.shape,
            "ranks": options.ranks,
            "weight": str(dtype)[6:],
        }
        never = linear.name == "head" and options.weights == "fp8"  # it keeps 16 bits
        if (options.only and linear.name not in options.only) or case in known or never:
            continue
        race = Race(linear, tokens, device, dtype, codes)
        rival, best = race.added(race.rival), race.best()
        least = linear_cost(tokens, linear.out, linear.inner, race.x.itemsize, None, dtype.itemsize)[0] / bandwidth
        figures: dict[str, float | None] = {
            "norm_us": race.norm_seconds * 1e6,
            "bandwidth_GBps": bandwidth / 1e9,
            "rival_us": rival * 1e6,
            "rival_share": least / rival,
            "ours_us": None,
        }
        shown = ("none is right", "", "")
        if best is not None:
            config, ours = asdict(best[0]), best[1]
            alone = race.added(partial(race.alone, config=best[0]), early=best[0].prefetch > 0)
            figures |= {"ours_us": ours * 1e6, "alone_us": alone * 1e6, "ours_share": least / ours, **config}
            shown = f"{ours * 1e6:.1f}", f"{least / ours:.0%}", _SHOWN.format(**config)
        table.add_row(linear.name, str(tokens), f"{rival * 1e6:.1f}", f"{least / rival:.0%}", *shown)
        machine.write(options.output, "gemm", case, figures)
        if options.output is not None and options.table is not None:
            write_table(options.output, options.table)
    console.print(table)


def write_table(output: Path, table: Path) -> str:
    """Write the winners among the records of `output` into `table`; what was written, in words."""
    records = [line for line in record.read(output) if line.benchmark == "gemm"]
    found = choices_of(records)
    merge(found, records, table)
    return f"{table}: {len(found)} of {len(records)} records have ours faster than what runs without a row"


def main(options: Options) -> None:
    """Measure where asked; write the table where asked."""
    check(
        options.shape not in shapes.SHAPES and f"--shape is {options.shape!r}; give one of {', '.join(shapes.SHAPES)}",
        (not all(1 <= tokens <= small_gemm.MOST_TOKENS for tokens in options.tokens) or options.ranks < 1)
        and f"tokens are 1 to {small_gemm.MOST_TOKENS}, ranks at least 1",
        (options.output is None and (options.table is not None or options.resume or not options.measure))
        and "--table, --resume and --no-measure work on the records of --output; give that",
        (options.measure and not torch.cuda.is_available() and not INTERPRET)
        and "there is no GPU to choose for; --no-measure --output RECORDS --table TABLE takes earlier records",
        (not options.measure and options.table is None) and "--no-measure is there for --table; give that",
        (not options.measure and options.output is not None and not options.output.is_file())
        and f"--output is {options.output}, and there is no such file; --no-measure takes the records in it",
        (options.table is not None and (str(options.table) in RULES or not options.table.absolute().parent.is_dir()))
        and f"--table is {options.table}; give a file in a folder that exists, by none of the names {', '.join(RULES)}",
    )
    if options.measure:
        run(options, torch.device("cpu" if INTERPRET else "cuda"), Console())
    if options.table is not None and options.output is not None:
        print(write_table(options.output, options.table))


if __name__ == "__main__":
    command(Options, main)
