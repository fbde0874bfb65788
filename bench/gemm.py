"""`python -m bench.gemm`: cuBLAS against `kernels.small_gemm` for each product of a decode step; the table of choices.

A product is timed behind an RMSNorm, as in a layer, in one captured graph with a cold L2 cache; its own time is that
less the norm alone. So a dependent launch (`GemmConfig.prefetch`), which starts during the norm, shows what it gains.
The fastest configuration that gives cuBLAS's result is recorded beside cuBLAS; `--table` writes the rows where it won
into the table that `kernels.linear` reads, and with `--no-measure` does so from what `--output` has.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from bench import ceilings, record, shapes, stand_in, timing
from bench.command import Resumed, check, columns, command
from kernels import INTERPRET, aot, language, rms_norm, silu_mul, small_gemm
from kernels.gemm_choices import Choice, Product, read_choices, write_choices
from kernels.linear import linear_cost

_MARGIN = 0.98
"""A configuration must take less than this of cuBLAS's time: closer is noise."""
_PROGRAMS = (132, 264, 528)
"""What split-K aims at: one, two and four programs on each multiprocessor of an H100 or H200."""
_SHARED = aot.SHARED_LIMIT - 8 * 1024
"""Bytes that the tiles in flight may take."""


@dataclass(frozen=True)
class Linear:
    """One product of a decode step: weight [out, inner]; of the gated one `out` counts gate and up rows."""

    name: str
    product: Product
    out: int
    inner: int
    bias: bool = False

    def ours(self, x: Tensor, weight: Tensor, bias: Tensor | None, config: small_gemm.GemmConfig) -> Tensor:
        """The kernel in one configuration."""
        return small_gemm.small_gemm(
            x, weight, config, bias=bias, gated=self.product is Product.GATED, maxima=self.product is Product.HEAD
        )[0]


@dataclass(frozen=True, kw_only=True)
class Options(Resumed):
    """Which products of which model to time, and the table that the winners go to."""

    shape: str = "qwen2.5-32b"
    """A name of `bench.shapes.SHAPES`."""
    ranks: int = 1
    """Tensor-parallel ranks: the shapes are those of one of them."""
    tokens: tuple[int, ...] = (1, 8, 32, 64)
    """Batches to time; a row holds from the one before it on."""
    only: tuple[Literal["qkv", "o", "gate_up", "down", "head"], ...] = ()
    measure: bool = True
    table: Path | None = None
    """The table to write the winners into (kernels/gemm_choices.json is the one in use); needs `output`."""


def linears(shape: shapes.Shape, ranks: int) -> tuple[Linear, ...]:
    """The products of one rank, in a layer's order, the head last."""
    hidden, features, dim = shape.hidden_size, shape.intermediate_size // ranks, shape.head_dim
    heads, kv_heads = shape.num_heads // ranks, max(1, shape.num_kv_heads // ranks)
    return (
        Linear("qkv", Product.PLAIN, (heads + 2 * kv_heads) * dim, hidden, bias=True),
        Linear("o", Product.PLAIN, hidden, heads * dim),
        Linear("gate_up", Product.GATED, 2 * features, hidden),
        Linear("down", Product.PLAIN, hidden, features),
        Linear("head", Product.HEAD, shape.vocab_size // ranks, hidden),
    )


def candidates(linear: Linear, tokens: int, itemsize: int) -> Iterator[small_gemm.GemmConfig]:
    """What is tried, plain launches: four tiles, and for a plain product splits of K that fill the device."""
    for out, inner, warps in ((64, 128, 4), (64, 256, 4), (128, 64, 8), (128, 128, 8)):
        rows = out * (2 if linear.product is Product.GATED else 1) + max(16, language.next_power_of_2(tokens))
        stages = min(5, _SHARED // (rows * inner * itemsize))
        wanted = {language.cdiv(programs, language.cdiv(linear.out, out)) for programs in _PROGRAMS}
        most = language.cdiv(linear.inner, inner) // 4 if linear.product is Product.PLAIN else 1
        for split in sorted({1, *(split for split in wanted if split <= most)}):
            yield small_gemm.GemmConfig(out, inner, split, warps, stages)


class Race:
    """One product at one number of tokens: its inputs, cuBLAS's way and ours, and their times."""

    def __init__(self, linear: Linear, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        self.linear, self.device = linear, device
        random = partial(torch.randn, device=device, dtype=dtype)
        self.x, self.gain = random(tokens, linear.inner), torch.ones(linear.inner, device=device, dtype=dtype)
        self.weight = random(linear.out, linear.inner) / linear.inner**0.5
        self.bias = random(linear.out) if linear.bias else None
        self.want = self.cublas(self.x).float()
        self.norm_seconds = self._seconds(self._norm)

    def cublas(self, x: Tensor) -> Tensor:
        """What `kernels.linear` runs where the table has no row."""
        if self.linear.product is Product.HEAD and x.is_cuda and x.dtype != torch.float32:
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32)  # type: ignore[call-overload,no-any-return]
        y = F.linear(x, self.weight, self.bias)
        return silu_mul.silu_mul_triton(y) if self.linear.product is Product.GATED else y

    def added(self, call: Callable[[Tensor], object], early: bool = False) -> float:
        """Seconds that a call adds to the norm in front of it."""
        return self._seconds(lambda: call(self._norm(early))) - self.norm_seconds

    def our_seconds(self, configs: Iterable[small_gemm.GemmConfig]) -> dict[small_gemm.GemmConfig, float]:
        """What each adds to the norm; those whose result is not that of cuBLAS are left out."""
        times = {}
        for config in configs:
            run = partial(self.linear.ours, weight=self.weight, bias=self.bias, config=config)
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
            itertools.islice(candidates(self.linear, len(self.x), self.x.itemsize), 1 if rehearsed else None)
        )
        dependent = self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) >= (9, 0)
        if right and dependent and not rehearsed:
            first = min(right, key=right.__getitem__)
            right |= self.our_seconds(replace(first, prefetch=prefetch) for prefetch in (2, 8))
        return min(right.items(), key=lambda timed: timed[1], default=None)

    def _norm(self, early: bool = False) -> Tensor:
        return rms_norm.rms_norm_triton(self.x, self.gain, 1e-6, lets_next_start=early)[0]

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
    found = []
    for (device, product, out, inner, tokens), line in lines.items():
        ours, cublas = line.figures["ours_us"], line.figures["cublas_us"]
        if ours is not None and cublas is not None and ours < _MARGIN * cublas:
            below = max((key[-1] for key in lines if key[:-1] == _timed(line) and key[-1] < tokens), default=0)
            config = small_gemm.GemmConfig(
                **{field.name: int(line.figures[field.name] or 0) for field in fields(small_gemm.GemmConfig)}
            )
            found.append(Choice(device, Product(product), out, inner, tokens, config, ours, cublas, below + 1))
    return found


def _timed(line: record.Record) -> tuple[str, str, int, int]:
    return line.device, line.case["product"], line.case["out"], line.case["inner"]


def merge(found: list[Choice], records: list[record.Record], table: Path) -> None:
    """Put `found` into the table in place of all rows of the shapes that `records` timed."""
    timed = {_timed(line) for line in records}
    kept = [
        row
        for row in (read_choices(table) if table.exists() else ())
        if (row.device, row.product.value, row.out_features, row.in_features) not in timed
    ]
    write_choices(kept + found, table)


def run(options: Options, device: torch.device, console: Console) -> None:
    """Time what is asked for, print and append it."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    asked = torch.device("cuda") if stand_in.card() is not None else device
    machine, bandwidth = record.Machine.read(asked), ceilings.measure(asked).limits_of(device).bandwidth
    known = [line.case for line in options.known("gemm", asked)]
    table = columns(
        *("product", "tokens", "cuBLAS us", "share", "ours us", "share", "configuration"),
        title=f"{machine.device}, {options.shape}, {bandwidth / 1e9:,.0f} GB/s",
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
            "dtype": str(dtype)[6:],
        }
        if (options.only and linear.name not in options.only) or case in known:
            continue
        race = Race(linear, tokens, device, dtype)
        cublas, best = race.added(race.cublas), race.best()
        least = linear_cost(tokens, linear.out, linear.inner, dtype.itemsize)[0] / bandwidth
        figures: dict[str, float | None] = {
            "norm_us": race.norm_seconds * 1e6,
            "bandwidth_GBps": bandwidth / 1e9,
            "cublas_us": cublas * 1e6,
            "cublas_share": least / cublas,
            "ours_us": None,
        }
        shown = ("none is right", "", "")
        if best is not None:
            config, ours = asdict(best[0]), best[1]
            figures |= {"ours_us": ours * 1e6, "ours_share": least / ours, **config}
            shown = f"{ours * 1e6:.1f}", f"{least / ours:.0%}", " ".join(map("{}={}".format, config, config.values()))
        table.add_row(linear.name, str(tokens), f"{cublas * 1e6:.1f}", f"{least / cublas:.0%}", *shown)
        machine.write(options.output, "gemm", case, figures)
        if options.output is not None and options.table is not None:
            write_table(options.output, options.table)
    console.print(table)


def write_table(output: Path, table: Path) -> str:
    """Write the winners among the records of `output` into `table`; what was written, in words."""
    records = [line for line in record.read(output) if line.benchmark == "gemm"]
    found = choices_of(records)
    merge(found, records, table)
    return f"{table}: {len(found)} of {len(records)} are faster than cuBLAS"


def main(options: Options) -> None:
    """Measure where asked; write the table where asked."""
    check(
        options.shape not in shapes.SHAPES and f"--shape is {options.shape!r}; give one of {', '.join(shapes.SHAPES)}",
        (options.output is None and (options.table is not None or options.resume or not options.measure))
        and "--table, --resume and --no-measure work on the records of --output; give that",
        (options.measure and not torch.cuda.is_available() and not INTERPRET)
        and "there is no GPU to choose for; --no-measure makes the table of old records",
    )
    if options.measure:
        run(options, torch.device("cpu" if INTERPRET else "cuda"), Console())
    if options.table is not None and options.output is not None:
        print(write_table(options.output, options.table))


if __name__ == "__main__":
    command(Options, main)
