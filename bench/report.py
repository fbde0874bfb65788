"""`python -m bench.report`: the README's performance table and a roofline plot, from the lines in `bench/results/`.

Each row is a question; its figure is that of the newest record that answers it. What no record answers says so, and
what never ran on a GPU says "not yet measured on a GPU".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import tyro

from bench.record import RESULTS, Record, read
from bench.shapes import SHAPES
from kernels.limits import H100, H200, Limits

BEGIN, END = "<!-- performance: begin (python -m bench.report --write) -->", "<!-- performance: end -->"
GAP_GPU, GAP = "not yet measured on a GPU", "not yet measured"


@dataclass(frozen=True)
class Row:
    """One row of the table: which record answers it (every pair of `case` must match), and where it belongs."""

    on: str
    what: str
    benchmark: str
    case: Mapping[str, Any]
    gpu: bool
    goal: str

    def answers(self, line: Record) -> bool:
        """Whether `line` is a measurement of this row, on the right kind of device."""
        on_gpu = "cuda" in line.versions and "cores" not in line.device
        return (
            line.benchmark == self.benchmark and on_gpu == self.gpu
            and all(line.case.get(key) == value for key, value in self.case.items())
            and any(value is not None for value in line.figures.values())
        )  # fmt: skip


_PEERS = {"s1-engine, unquantized": "bf16 weights"}
_WHOLE = {"quantization": None, "kv_cache_dtype": None}
"""Weights and cache in the model's own type: records name only what differs from that."""


def _decode(on: str, model: str, batch: int, context: int, gpu: bool, goal: str, engine: str = "s1-engine") -> Row:
    what = f"decode, batch {batch}, context {context:,}"
    if engine != "s1-engine":
        what += f": against {_PEERS.get(engine, engine)}"
    case = {"model": model, "engine": engine, "batch": batch, "context": context, "budget": None, **_WHOLE}
    return Row(on, what, "decode", case, gpu, goal)


ROWS: tuple[Row, ...] = (
    *(_decode("H200, 32B bf16", "qwen2.5-32b", batch, context, True, goal) for batch, context, goal in (
        (1, 1024, "≥ 95 % of the copy bandwidth"), (8, 1024, "≥ 90 %"), (64, 1024, "≥ 90 %"), (8, 8192, "≥ 90 %"))),
    Row("H200, 32B bf16", "prefill, 8,192 tokens", "prefill", {"model": "qwen2.5-32b", "context": 8192}, True,
        "≥ 60 % of matmul"),
    Row("H200, 32B bf16", "native forcing against a client loop", "budgets", {"model": "qwen2.5-32b"}, True, "> 1x"),
    *(_decode("CPU, 40M bf16", "40m", batch, 128, False, goal, engine) for batch in (1, 8) for engine, goal in (
        ("s1-engine", "the read bandwidth"), ("vllm", "≥ 1x"), ("transformers", "> 1x"))),
    *(_decode("CPU, 0.5B bf16", "qwen2.5-0.5b", batch, 128, False, goal, engine) for batch in (1, 8)
      for engine, goal in (("s1-engine", "the read bandwidth"), ("vllm", "> 1x"),
                           ("transformers", "≥ 1.2x" if batch == 1 else "≥ 1.3x"))),
    Row("CPU, 0.5B int8 weights", "decode, batch 1, context 128", "decode",
        {"model": "qwen2.5-0.5b", "engine": "s1-engine", "batch": 1, "context": 128, "budget": None,
         "quantization": "int8"}, False, "the read bandwidth"),
    _decode("CPU, 0.5B int8 weights", "qwen2.5-0.5b", 1, 128, False, "≥ 1.7x", "s1-engine, unquantized"),
    Row("CPU, null model", "host time per token, end of 16k tokens over start", "host_growth", {}, False, "≤ 1.1"),
    Row("CPU, null model", "batch of 128, budgets in half of it over none", "host_budgets", {}, False, "≤ 1.02"),
    Row("CPU, 40M bf16", "native forcing against a client loop, no prefix cache", "budgets",
        {"model": "40m", "prefix_cache": False}, False, "> 1x"),
    Row("CPU, 40M bf16", "native forcing against a client loop, prefix cache", "budgets",
        {"model": "40m", "prefix_cache": True}, False, "> 1x"),
)  # fmt: skip


def newest(row: Row, lines: Iterable[Record]) -> Record | None:
    """The latest record that answers `row`."""
    found = [line for line in lines if row.answers(line)]
    return max(found, key=lambda line: line.date) if found else None


def cell(row: Row, line: Record | None) -> str:
    """The figure of one row as text."""
    if line is None:
        return GAP_GPU if row.gpu else GAP
    figures = line.figures
    if row.benchmark == "decode" and "ratio" in figures:
        return f"**{figures['ratio']:.2f}x** ({figures['step_ms']:.3g} ms per step there)"
    if row.benchmark == "decode":
        return (
            f"**{figures['step_ms']:.3g} ms** per step, {figures['tok_s_total']:,.0f} tok/s, "
            f"{figures['GBps']:.3g} GB/s, {figures['bandwidth_share']:.0%} of the bandwidth"
        )
    if row.benchmark == "budgets":
        less = 1 - (figures["native_prefill_tokens"] or 0) / (figures["client_prefill_tokens"] or 1)
        return f"**{figures['time_ratio']:.2f}x**, {less:.0%} less prefill"
    if row.benchmark == "prefill":
        return f"**{figures['seconds']:.3g} s**, {figures['matmul_share']:.0%} of the matmul rate"
    return f"**{figures['ratio']:.3f}**"


def table(lines: Sequence[Record]) -> str:
    """Markdown: a row for each question, with device and commit of its answer."""
    out = ["| on | what | goal | measured | device, commit |", "|---|---|---|---|---|"]
    for row in ROWS:
        line = newest(row, lines)
        source = "" if line is None else f"{line.device}, {line.threads} threads, `{line.commit}`"
        out.append(f"| {row.on} | {row.what} | {row.goal} | {cell(row, line)} | {source} |")
    return "\n".join(out)


def roofline(lines: Sequence[Record], file: Path) -> None:
    """PNG: tokens per second over batch, the limit of Qwen2.5-32B on H200 and H100, and what was measured."""
    figure, (gpu, cpu) = plt.subplots(1, 2, figsize=(11, 4.2))
    batches = [1, 2, 4, 8, 16, 32, 64]
    for device, style in ((H200, "-"), (H100, "--")):
        limits = Limits(SHAPES["qwen2.5-32b"], device)
        gpu.plot(batches, [limits.tokens_per_second(b, 1024) for b in batches], style, color="0.4",
                 label=f"limit, {device.name}")  # fmt: skip
    _points(gpu, [line for line in lines if line.case.get("model") == "qwen2.5-32b"])
    gpu.set_title("Qwen2.5-32B bf16, context 1,024")
    small = [line for line in lines if line.benchmark == "decode" and line.case.get("model") == "qwen2.5-0.5b"]
    _points(cpu, small)
    rows = sorted({(line.case["batch"], line.case["batch"] / line.figures["limit_ms"] * 1e3)
                   for line in small if line.figures.get("limit_ms")})  # fmt: skip
    if rows:
        cpu.plot(*zip(*rows, strict=True), "-", color="0.4", label="limit, measured read bandwidth")
    cpu.set_title("0.5B bf16 on a CPU, context 128")
    for axes in (gpu, cpu):
        axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="tokens per second")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(True, which="both", alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    if not any(line.case.get("model") == "qwen2.5-32b" for line in lines):
        gpu.text(0.95, 0.08, GAP_GPU, transform=gpu.transAxes, ha="right")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _points(axes: Any, lines: Iterable[Record]) -> None:
    decodes = [line for line in lines if line.benchmark == "decode" and line.figures.get("tok_s_total")
               and all(line.case.get(key) == value for key, value in _WHOLE.items())]  # fmt: skip
    for engine in dict.fromkeys(line.case["engine"] for line in decodes):
        latest = {line.case["batch"]: line.figures["tok_s_total"]
                  for line in sorted(decodes, key=lambda line: line.date)
                  if line.case["engine"] == engine and line.case["budget"] is None}  # fmt: skip
        axes.plot(*zip(*sorted(latest.items()), strict=True), "o", label=engine)


def insert(text: str, rendered: str) -> str:
    """`text` with what stands between the two markers replaced. Raises ValueError where they are missing."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the file lacks the markers {BEGIN} and {END}; add them where the table belongs")
    return pattern.sub(lambda _: f"{BEGIN}\n{rendered}\n{END}", text)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the records are, and what is made of them."""

    results: Path = RESULTS
    """A folder of JSON lines; folders inside are read too."""
    write: tuple[Path, ...] = ()
    """Files whose table, between its markers, is replaced; without any, it is printed."""
    plot: Path | None = None
    """A PNG to write the roofline to."""


def main(options: Options) -> None:
    """Render, print or write."""
    lines = [line for file in sorted(options.results.rglob("*.jsonl")) for line in speed_records(file)]
    rendered = table(lines)
    for file in options.write:
        try:
            file.write_text(insert(file.read_text(encoding="utf-8"), rendered), encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SystemExit(f"bench.report: {file}: {error}") from None
    if not options.write:
        print(rendered)
    if options.plot is not None:
        roofline(lines, options.plot)


def speed_records(file: Path) -> list[Record]:
    """The records of one file; files of accuracy results, which are not records of this kind, give none."""
    first = file.read_text(encoding="utf-8").lstrip()[:1000]
    return read(file) if '"benchmark"' in first else []


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.report", description=__doc__))
