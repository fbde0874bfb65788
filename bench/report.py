"""`python -m bench.report`: the tables of figures and a roofline plot, from the lines in `bench/results/`.

Each row is a question; its figure is that of the newest record that answers it. What no record answers says so, and
what never ran on a GPU says "not yet measured on a GPU".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from bench import prediction
from bench.gpu.files import GEMM_TABLE
from bench.gpu.plan import CELLS, peer_shape
from bench.record import RESULTS, Record, read
from bench.shapes import SHAPES
from engine.figure_style import LIGHT, settings
from kernels.limits import H100, H200, Device, Limits, known_device

MARKERS = {
    name: (f"<!-- {name}: begin (python -m bench.report --write) -->", f"<!-- {name}: end -->")
    for name in ("performance", "performance in short", "prediction")
}
"""What the tables stand between: all rows, those of `SHORT`, and `bench.prediction`'s."""
GAP_GPU, GAP = "not yet measured on a GPU", "not yet measured"


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table: which record answers it (every pair of `case` must match), and where it belongs."""

    on: str
    what: str
    benchmark: str
    case: Mapping[str, Any]
    goal: str
    card: str | None = None
    """the GPU that it is about; None: a CPU"""

    def answers(self, line: Record, rehearsal: str | None = None) -> bool:
        """Whether `line` is a measurement of this row, on the right kind of device; with `rehearsal`, on the stand-in
        for that card."""
        known = known_device(line.device)
        there = "cores" in line.device if self.card is None else known is not None and known.name == self.card
        return (
            there
            and line.versions.get("stand_in") == rehearsal
            and line.benchmark == self.benchmark
            and all(line.case.get(key) == value for key, value in self.case.items())
        )


_WHOLE = {"quantization": None, "kv_cache_dtype": None, "products": None}
"""Weights and cache in the model's own type, products by the package's table: records name only what differs."""
_REAL = "SmolLM2-135M-Instruct"
_WAYS: dict[str | None, tuple[dict[str, str], str]] = {
    None: ({}, ""),
    "folded": ({"products": "folded"}, ", folded layers"),
    "dependent": ({"products": "dependent"}, ", folded layers that overlap"),
    "tuned": ({"products": GEMM_TABLE}, ", products as measured on this card"),
    "int8": ({"quantization": "int8"}, ", int8 weights"),
    "fp8 KV": ({"kv_cache_dtype": "fp8"}, ", fp8 keys and values"),
    "fp8": ({"quantization": "fp8", "kv_cache_dtype": "fp8"}, ", fp8 weights, keys and values"),
}


def _decode(
    on: str,
    model: str,
    batch: int,
    context: int,
    goal: str,
    engine: str = "s1-engine",
    card: str | None = None,
    way: str | None = None,
    budget: int | None = None,
    gguf: str | None = None,
) -> Row:
    different, words = _WAYS[way]
    what = f"decode, batch {batch}, context {context:,}{words}"
    if engine != "s1-engine":
        what += ": against " + {"s1-engine, unquantized": "bf16 weights"}.get(engine, engine)
    if gguf is not None:
        different, what = {"gguf": gguf}, f"{what}, {gguf}"
    if budget is not None:
        what += f": budgets of {budget} in half of it, over none"
    case = {"model": model, "engine": engine, "batch": batch, "context": context, "budget": budget}
    return Row(on, what, "decode", case | _WHOLE | different, goal, card)


def _gpu(card: Device) -> tuple[Row, ...]:
    """What the plan for a card measures."""
    cells, on, model = CELLS[card.name], f"{card.name}, 32B", "qwen2.5-32b"
    attention = {"operator": "decode_attention", "size": "8x8192", "shape": model}
    peer = peer_shape(card)

    def decode(on: str, cell: str, goal: str, model: str = model, **different: Any) -> Row:
        batch, context = map(int, cell.split("x"))
        return _decode(on, model, batch, context, goal, card=card.name, **different)

    return (
        *(
            decode(f"{on} bf16", cell, "≥ 95 % of the copy bandwidth" if cell == "1x1024" else "≥ 90 %")
            for cell in cells.bf16
        ),
        decode(f"{on} bf16", "8x1024", "< 0.5 % slower", budget=64),
        *(decode(f"{on} bf16", cell, "≥ 90 %", way=way) for way in ("folded", "dependent") for cell in cells.folded),
        *(decode(f"{on} bf16", cell, "≥ 95 %" if cell == "1x1024" else "≥ 90 %", way="tuned") for cell in cells.tuned),
        decode(on, cells.eight_bits[0], "≥ 90 %", way="int8"),
        decode(on, cells.fp8_kv[0], "≥ 90 %", way="fp8 KV"),
        decode(on, cells.eight_bits[1], "≥ 90 %", way="fp8"),
        Row(
            f"{on} bf16",
            "prefill, 8,192 tokens",
            "prefill",
            {"model": model, "context": 8192},
            "≥ 60 % of matmul",
            card.name,
        ),
        Row(f"{on} bf16", "decode attention alone, batch 8, context 8,192", "kernels", attention, "≥ 90 %", card.name),
        Row(
            f"{card.name}, 0.5B bf16",
            "native forcing against a client loop, no prefix cache",
            "budgets",
            {"model": "qwen2.5-0.5b", "prefix_cache": False},
            "> 1x",
            card.name,
        ),
        *(
            Row(
                f"{card.name}, {name}",
                "training",
                "train",
                {"engine": "s1-engine", "shape": shape, **more},
                "≥ 40 % of matmul",
                card.name,
            )
            for shape, name, more in (
                ("qwen2.5-0.5b", "0.5B", {"lora": None}),
                ("qwen2.5-7b", "7B, LoRA", {"lora": 16}),
                ("qwen2.5-32b", "32B, three layers", {"layers": 3}),
            )
        ),
        decode(
            f"{card.name}, {peer.removeprefix('qwen2.5-').upper()} bf16",
            cells.peers[0],
            "> 1x",
            peer,
            engine="transformers",
        ),
    )


ROWS: tuple[Row, ...] = (
    *_gpu(H100),
    *_gpu(H200),
    *(
        _decode("CPU, 40M bf16", "40m", batch, 128, goal, engine)
        for batch in (1, 8)
        for engine, goal in (("s1-engine", "the read bandwidth"), ("vllm", "≥ 1x"), ("transformers", "> 1x"))
    ),
    *(
        _decode("CPU, 0.5B bf16", "qwen2.5-0.5b", batch, 128, goal, engine)
        for batch in (1, 8)
        for engine, goal in (
            ("s1-engine", "the read bandwidth"),
            ("vllm", "> 1x"),
            ("transformers", "≥ 1.2x" if batch == 1 else "≥ 1.3x"),
        )
    ),
    _decode("CPU, 0.5B", "qwen2.5-0.5b", 1, 128, "the read bandwidth", way="int8"),
    _decode("CPU, 0.5B int8 weights", "qwen2.5-0.5b", 1, 128, "≥ 1.7x", "s1-engine, unquantized"),
    *(
        _decode("CPU, SmolLM2 bf16", _REAL, batch, 128, goal, engine, gguf="F16" if engine == "llamacpp" else None)
        for batch in (1, 8)
        for engine, goal in (
            ("s1-engine", "the read bandwidth"),
            ("vllm", "> 1x"),
            ("transformers", "> 1x"),
            ("llamacpp", "> 1x"),
        )
    ),
    *(
        row
        for batch in (1, 8)
        for row in (
            _decode("CPU, SmolLM2", _REAL, batch, 128, "the read bandwidth", way="int8"),
            _decode("CPU, SmolLM2 int8 weights", _REAL, batch, 128, "> 1x", "llamacpp", gguf="Q8_0"),
        )
    ),
    *(
        Row("CPU", f"from the shell to {what}", "startup", {"start": name}, goal)
        for what, name, goal in (
            ("the end of --help", "--help", "≤ 1 s"),
            ("s1-nano's first token", "s1-nano", "≤ 3 s"),
            ("SmolLM2's first token", "smollm2", "≤ 5 s"),
        )
    ),
    Row("CPU, null model", "host time per token, end of 16k tokens over start", "host_growth", {}, "≤ 1.1"),
    Row("CPU, null model", "batch of 128, budgets in half of it over none", "host_budgets", {}, "≤ 1.02"),
    Row(
        "CPU, 40M bf16",
        "native forcing against a client loop, no prefix cache",
        "budgets",
        {"model": "40m", "prefix_cache": False},
        "> 1x",
    ),
    Row(
        "CPU, 40M bf16",
        "native forcing against a client loop, prefix cache",
        "budgets",
        {"model": "40m", "prefix_cache": True},
        "> 1x",
    ),
    *(
        Row(
            f"CPU, {name} bf16",
            "trees of width 16 over samples of as many tokens",
            "search_cost",
            {"model": model},
            "≤ 1.1",
        )
        for name, model in (("0.5B", "qwen2.5-0.5b"), ("40M", "40m"))
    ),
    Row(
        "CPU, 40M bf16",
        "pages of a tree of 256 leaves over those of 64 samples",
        "search_pages",
        {"model": "40m"},
        "< 1",
    ),
    Row(
        "CPU, 40M bf16",
        "tokens scored anew over those of the new steps, depth 20",
        "search_scoring",
        {"model": "40m"},
        "> 5",
    ),
    *(
        Row(
            f"CPU, {name} bf16",
            f"tokens over HTTP, 64 streams, against {what}",
            "serve",
            {"model": model, "side": side, "rate": None, "budget": None},
            goal,
        )
        for name, model, side, what, goal in (
            ("40M", "40m", "engine", "the engine without it", "≥ 0.9x"),
            ("s1-nano", "s1-nano", "engine", "the engine without it", "≥ 0.9x"),
            ("40M", "40m", "vllm", "vLLM's server", "> 1x"),
        )
    ),
)

SHORT: tuple[Row, ...] = (
    _decode("CPU, 0.5B bf16", "qwen2.5-0.5b", 1, 128, "the read bandwidth"),
    _decode("CPU, 0.5B bf16", "qwen2.5-0.5b", 1, 128, "> 1x", "vllm"),
    _decode("CPU, 0.5B int8 weights", "qwen2.5-0.5b", 1, 128, "≥ 1.7x", "s1-engine, unquantized"),
    next(row for row in ROWS if row.case == {"model": "40m", "prefix_cache": True}),
    *(
        _decode(f"{card}, 32B bf16", "qwen2.5-32b", 1, 1024, "≥ 95 % of the copy bandwidth", card=card)
        for card in CELLS
    ),
)
"""The rows for a reader in a hurry."""


def newest(row: Row, lines: Iterable[Record], rehearsal: str | None = None) -> Record | None:
    """The latest record that answers `row`."""
    found = (line for line in lines if row.answers(line, rehearsal) and cell(row, line) is not None)
    return max(found, key=lambda line: line.date, default=None)


def cell(row: Row, line: Record) -> str | None:
    """The figure of one row as text; None: the record lacks what the row asks for."""
    try:
        shown = _cell(row, line.figures)
        return shown if "stand_in" in line.versions or row.benchmark != "decode" else shown + _predicted(row)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _cell(row: Row, of: Mapping[str, Any]) -> str:
    match row.benchmark:
        case "decode" if of["step_ms"] is None:
            return "does not fit in memory"
        case "decode" if row.case["budget"] is not None:
            return f"**{of['ratio'] - 1:+.1%}** ({of['step_ms']:.3g} ms per step)"
        case "decode" if row.case["engine"] != "s1-engine":
            return f"**{of['ratio']:.2f}x** ({of['step_ms']:.3g} ms per step there)"
        case "decode":
            return (
                f"**{of['step_ms']:.3g} ms** per step, {of['tok_s_total']:,.0f} tok/s, "
                f"{_short(of['GBps'])} GB/s, {of['bandwidth_share']:.0%} of the bandwidth"
            )
        case "budgets":
            less = 1 - of["native_prefill_tokens"] / of["client_prefill_tokens"]
            return f"**{of['time_ratio']:.2f}x**, {less:.0%} less prefill"
        case "prefill":
            return f"**{of['seconds']:.3g} s**, {of['matmul_share']:.0%} of the matmul rate"
        case "kernels":
            return f"**{of['us']:.3g} us**, {_short(of['GBps'])} GB/s, {of['share']:.0%} of the bandwidth"
        case "serve":
            first = "" if of.get("ttft_ratio") is None else f", first token {of['ttft_ratio']:.2f}x"
            return f"**{of['ratio']:.2f}x**{first} ({of['tok_s']:,.0f} tok/s there)"
        case "startup":
            seconds = "end_s" if row.case["start"] == "--help" else "first_s"
            before = of.get(f"before_{seconds}")  # where another checkout was started in turn
            then = "" if before is None else f" ({before:.2g} s, {of['before_peak_MB']:,.0f} MB before)"
            return f"**{of[seconds]:.2g} s**, {of['peak_MB']:,.0f} MB{then}"
        case "train":
            share = f"{of['share_of_matmul']:.0%} of the matmul rate"
            return f"**{of['tokens_per_second']:,.0f} tok/s**, {_short(of['step_ms'])} ms per step, {share}"
        case _:
            return f"**{of['ratio']:.3f}**"


def _predicted(row: Row) -> str:
    """What `bench.prediction` had said, where it says anything: bf16 on a GPU, by no table of products."""
    case, devices = row.case, {device.name: device for device in (H100, H200)}
    way = case["products"] or "plain"
    ours = case["engine"] == "s1-engine" and case["budget"] is None
    if not ours or row.card is None or case["quantization"] or case["kv_cache_dtype"] or way not in prediction.WAYS:
        return ""
    seconds = prediction.predict(devices[row.card], case["batch"], case["context"], way, case["model"]).seconds
    return f"; predicted {seconds * 1e3:.3g} ms"


def _short(value: float) -> str:
    """Three digits, or whole thousands."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(lines: Sequence[Record], rehearsal: str | None = None) -> str:
    """Markdown: a row for each question, with device and commit of its answer; one for a card that has answered none.
    With `rehearsal`, only the rows of that card, from its stand-in, and a sentence that says so."""
    rows = [row for row in ROWS if rehearsal is None or row.card == rehearsal]
    answers = {row: newest(row, lines, rehearsal) for row in rows}
    heard = {None, *(row.card for row, line in answers.items() if line is not None)}
    unheard = Counter(row.card for row in rows if row.card not in heard)
    words = f"A rehearsal: no figure here is of an {rehearsal}. A tiny model ran on the device that is named."
    return "\n".join(
        [
            *([words, ""] if rehearsal is not None else []),
            "| on | what | goal | measured | device, commit |",
            "|---|---|---|---|---|",
            *(
                f"| {row.on} | {row.what} | {row.goal} | {_answer(row, line)} | {_source(line)} |"
                for row, line in answers.items()
                if row.card in heard
            ),
            *(
                f"| {card} | decode, prefill, forcing, training, peers: {count} figures, see `docs/gpu_day.md` | "
                f"| {GAP_GPU} | |"
                for card, count in unheard.items()
            ),
        ]
    )


def short_table(lines: Sequence[Record]) -> str:
    """Markdown: the rows of `SHORT`, without devices and goals."""
    rows = [f"| {row.on} | {row.what} | {_answer(row, newest(row, lines))} |" for row in SHORT]
    return "\n".join(["| on | what | measured |", "|---|---|---|", *rows])


def _source(line: Record | None) -> str:
    return "" if line is None else f"{line.device}, {line.threads} threads, `{line.commit}`"


def _answer(row: Row, line: Record | None) -> str | None:
    return (GAP if row.card is None else GAP_GPU) if line is None else cell(row, line)


_ENGINES = {"s1-engine": "this engine", "vllm": "vLLM", "transformers": "transformers"}


def roofline(lines: Sequence[Record], file: Path) -> None:
    """Write `drawn(lines)` as PNG."""
    with matplotlib.style.context(settings(LIGHT), after_reset=True):
        drawn(lines).savefig(file, dpi=130)


def drawn(lines: Sequence[Record]) -> Figure:
    """Tokens per second over the batch. The limit is a line over all batches, what was measured are dots under it:
    Qwen2.5-32B on an H200 and an H100, and a 0.5B model on a CPU, each by its newest records."""
    figure = Figure(figsize=(11, 4.2))
    gpu, cpu = figure.subplots(1, 2)
    gpu.set_title("Qwen2.5-32B bf16, context 1,024")
    for device, color in ((H200, "C0"), (H100, "C1")):
        limits = Limits(SHAPES["qwen2.5-32b"], device)
        _limit(gpu, limits, 1024, _BATCHES, f"limit, {device.name}", color)
        _points(gpu, _newest(lines, "qwen2.5-32b", 1024, device.name), f", {device.name}", color)
    if all(line.get_marker() != "o" for line in gpu.lines):
        gpu.text(0.95, 0.08, GAP_GPU, transform=gpu.transAxes, ha="right")
    cpu.set_title("0.5B bf16 on a CPU, context 128")
    found = _newest(lines, "qwen2.5-0.5b", 128, None)
    read = max((line.figures.get("read_GBps") or 0.0 for line in found.values()), default=0.0)
    if read:
        # Each dot has a bandwidth of its own, measured beside it: under the fastest of them lie all.
        limits = Limits(SHAPES["qwen2.5-0.5b"], Device("", read * 1e9, float("inf"), 0.0))
        batches = [batch for batch in _BATCHES if batch <= 2 * max(batch for _, batch in found)]
        _limit(cpu, limits, 128, batches, f"limit at {read:.0f} GB/s, read beside them", "0.4")
    _points(cpu, found)
    for axes in (gpu, cpu):
        axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="tokens per second")
        ticks = _BATCHES if axes is gpu else [batch for batch in _BATCHES if batch <= axes.get_xlim()[1]]
        for axis, major, numbers in (
            (axes.xaxis, FixedLocator(ticks), "{x:.0f}"),
            (axes.yaxis, LogLocator(subs=(1, 2, 5)), "{x:,.0f}"),
        ):
            axis.set_major_locator(major)
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(numbers)
        axes.grid(False, axis="x")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.tight_layout()
    return figure


_BATCHES = [1, 2, 4, 8, 16, 32, 64]


def _limit(axes: Any, limits: Limits, context: int, batches: Sequence[int], label: str, color: str) -> None:
    every = range(batches[0], batches[-1] + 1)
    axes.plot(every, [limits.tokens_per_second(batch, context) for batch in every], color=color, label=label)


def _newest(lines: Iterable[Record], model: str, context: int, card: str | None) -> dict[tuple[str, int], Record]:
    """The newest decode record of each (engine, batch), in the model's own type, without budgets and stand-ins: all of
    the device of the newest one."""
    row = Row("", "", "decode", {"model": model, "context": context, "budget": None, **_WHOLE}, "", card)
    fitting = [
        line
        for line in sorted(lines, key=lambda line: line.date)
        if row.answers(line) and line.figures.get("tok_s_total") and line.case["engine"] in _ENGINES
    ]
    found = {(line.case["engine"], line.case["batch"]): line for line in fitting}
    return {key: line for key, line in found.items() if line.device == fitting[-1].device}


def _points(axes: Any, found: Mapping[tuple[str, int], Record], where: str = "", color: str | None = None) -> None:
    for engine, name in _ENGINES.items():
        dots = sorted((batch, line.figures["tok_s_total"]) for (e, batch), line in found.items() if e == engine)
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", label=name + where, color=color if engine == "s1-engine" else None)


def insert(text: str, lines: Sequence[Record]) -> str:
    """`text` with what stands between markers replaced: one or more of the tables. Raises ValueError
    where there are none."""
    if not any(begin in text and end in text for begin, end in MARKERS.values()):
        begin, end = MARKERS["performance"]
        raise ValueError(f"the file lacks the markers {begin} and {end}; add them where the table belongs")
    tables = {"performance": table(lines), "performance in short": short_table(lines), "prediction": prediction.table()}
    for name, (begin, end) in MARKERS.items():
        rendered = f"{begin}\n{tables[name]}\n{end}"
        pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
        text = re.sub(pattern, rendered.replace("\\", r"\\"), text, flags=re.DOTALL)
    return text


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the records are, and what is made of them."""

    results: Path = RESULTS
    """A folder of JSON lines; folders inside are read too."""
    write: tuple[Path, ...] = ()
    """Files whose table, between its markers, is replaced; without any, it is printed."""
    plot: Path | None = None
    """A PNG to write the roofline to."""
    rehearsal: Literal["H100", "H200"] | None = None
    """Print the table of a rehearsal of that card."""


def main(options: Options) -> None:
    """Render, print or write."""
    lines = [line for file in sorted(options.results.rglob("*.jsonl")) for line in speed_records(file)]
    if options.rehearsal is not None and options.write:
        raise SystemExit("bench.report: --rehearsal goes with no --write: what was rehearsed is no figure of a GPU")
    for file in options.write:
        try:
            file.write_text(insert(file.read_text(encoding="utf-8"), lines), encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SystemExit(f"bench.report: {file}: {error}") from None
    if not options.write:
        print(table(lines, options.rehearsal))
    if options.plot is not None:
        roofline(lines, options.plot)


def speed_records(file: Path) -> list[Record]:
    """The records of one file; files of accuracy results, which are not records of this kind, give none."""
    return read(file) if '"benchmark"' in file.read_text(encoding="utf-8").lstrip()[:1000] else []


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.report", description=__doc__))
