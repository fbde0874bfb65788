"""Figures from a report: PNG, SVG and the plotted data as JSON, per task. The same report gives the same files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.whole_file import write_whole

_COLOURS = ("#1b6ca8", "#d1495b", "#3c8d53", "#8e5ea2", "#b07d2b", "#4a4a4a", "#0f9ba8", "#a23b72")
_MARKERS = "osD^vPX*"
_MANY = len(_COLOURS)
"""Curves that can be told apart by colour alone, with all their bars."""


@dataclass(frozen=True)
class Curve:
    """One line: tokens, and accuracy with its interval in [0, 1]; `labels` stand beside the points, on the side where
    a rising curve leaves room: upper left, or with `below` lower right."""

    name: str
    tokens: Sequence[float]
    accuracy: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    labels: Sequence[str] = ()
    below: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes of a figure: what their x is, and the curves in them. A name has one colour in all panels."""

    x: str
    curves: Sequence[Curve]


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure that the report has the points for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for task in report["tasks"]:
        title = f"{report['model']}, {task['task']}: {task['problems']:,} problems"
        plots = {
            "accuracy": [Panel("average thinking tokens", sequential(task))],
            "parallel": parallel(task),
            "rejection": [Panel("average thinking tokens", rejection(task))],
            "search": searches(task),
        }
        for name, panels in plots.items():
            if any(panel.curves for panel in panels):
                files += _save(folder / f"{task['task']}-{name}", panels, title)
    return files


def sequential(task: Mapping[str, Any]) -> list[Curve]:
    """Accuracy against average thinking tokens, a curve per series of conditions."""
    drawn = [row for row in task["conditions"] if "search" not in row and row["series"] != "rejection"]
    names = dict.fromkeys(row["series"] for row in drawn)
    return [_curve(name, _rows(task, name), at % 2 == 0) for at, name in enumerate(names)]


def rejection(task: Mapping[str, Any]) -> list[Curve]:
    """Rejection sampling beside budgets; empty where there is none."""
    rows = {name: _rows(task, name) for name in ("rejection", "budget")}
    return [_curve(name, found, name == "budget") for name, found in rows.items() if found and rows["rejection"]]


def parallel(task: Mapping[str, Any]) -> list[Panel]:
    """Samples taken together, against all tokens that they generate and against those of the longest, which is what
    one waits for; sequential scaling beside them in both."""
    sampled = [
        row for row in task["conditions"] if row["series"].startswith("parallel") and len(row.get("at_k", ())) > 1
    ]
    if not sampled:
        return []
    rows = sorted(_rows(task, "budget", "extensions Wait"), key=lambda row: row["completion_tokens"])
    tokens = [row["completion_tokens"] for row in rows]
    alone = Curve("one sample: budgets and Waits", tokens, [row["accuracy"] for row in rows])
    lowest = min(sampled, key=lambda row: row["accuracy"])  # room for labels is below the lowest curve
    panels = []
    for axis, whose in (("unique_tokens", "all k samples"), ("path_tokens", "the longest of k samples")):
        curves = []
        for row in sampled:
            entries, budget = row["at_k"], row["series"].removeprefix("parallel ")
            labels = [str(entry["k"]) for entry in entries] if row is lowest and axis == "unique_tokens" else ()
            low, high = zip(*(entry["majority_interval"] for entry in entries), strict=True)
            tokens, voted = [entry[axis] for entry in entries], [entry["majority"] for entry in entries]
            curves.append(Curve(f"majority of k, {budget}", tokens, voted, low, high, labels, below=True))
            if all(entry["best_of"] is not None for entry in entries):
                best = [entry["best_of"] for entry in entries]
                curves.append(Curve(f"best of k by log-probability, {budget}", tokens, best))
        panels.append(Panel(f"tokens of {whose}", [*curves, alone] if len(rows) > 1 else curves))
    return panels


def searches(task: Mapping[str, Any]) -> list[Panel]:
    """Every search against what it costs, in unique tokens and in operations; greedy budgets and "Wait"s, and votes of
    independent samples, beside them in both."""
    found = [row for row in task["conditions"] if "search" in row]
    if not found:
        return []
    alone = [row for row in _rows(task, "budget", "extensions Wait") if row["samples"] == 1]
    names = dict.fromkeys(row["series"] for row in found)
    curves = {"one greedy sample: budgets and Waits": alone, **{name: _rows(task, name) for name in names}}
    least = min((row["cost"]["flops"] for rows in curves.values() for row in rows if row["cost"]["flops"]), default=1.0)
    unit, name = max(one for one in _UNITS if one[0] <= max(1.0, least))
    return [
        Panel(x, [_costly(curve, sorted(rows, key=cost), cost) for curve, rows in curves.items() if rows])
        for x, cost in (
            ("unique tokens of a problem", lambda row: row["cost"]["unique_tokens"]),
            (f"{name} of a problem, policy and reward", lambda row: row["cost"]["flops"] / unit),
        )
    ]


_UNITS = ((1.0, "FLOPs"), (1e3, "kFLOPs"), (1e6, "MFLOPs"), (1e9, "GFLOPs"), (1e12, "TFLOPs"), (1e15, "PFLOPs"))


def _costly(name: str, rows: Sequence[Mapping[str, Any]], cost: Callable[[Mapping[str, Any]], float]) -> Curve:
    """A curve over a cost, with its intervals."""
    low, high = ([row["interval"][end] for row in rows] for end in ("low", "high"))
    return Curve(name, [cost(row) for row in rows], [row["accuracy"] for row in rows], low, high)


def _rows(task: Mapping[str, Any], *series: str) -> list[Mapping[str, Any]]:
    return [row for row in task["conditions"] if row["series"] in series]


def _curve(name: str, rows: Sequence[Mapping[str, Any]], below: bool) -> Curve:
    return Curve(
        name,
        [row["thinking_tokens"] for row in rows],
        [row["accuracy"] for row in rows],
        [row["interval"]["low"] for row in rows],
        [row["interval"]["high"] for row in rows],
        [_short(row) for row in rows] if len(rows) > 1 else (),
        below,
    )


def _short(row: Mapping[str, Any]) -> str:
    """The point's number: its budget, or how many extensions."""
    words = row["condition"].split()
    return next((word for word in reversed(words) if word.rstrip("x").isdigit()), words[-1])


def _save(stem: Path, panels: Sequence[Panel], title: str) -> list[Path]:
    # Ids in an SVG are drawn at random otherwise, and the date would differ too.
    # A dollar sign in a name is one, and begins no formula.
    with matplotlib.rc_context({"svg.hashsalt": "s1-engine", "font.size": 9, "text.parse_math": False}):
        wide = len(panels) > 1
        columns = 2 if len(panels[0].curves) <= _MANY else 3
        lines = max(0, -(-len(panels[0].curves) // columns) - 4)  # of the legend, beyond those that there is room for
        figure = Figure(figsize=(9.6 if wide else 6.8, 4.8 + 0.2 * lines if wide else 4.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(row, panels, strict=True):
            _panel(axes, panel)
        curves = [curve for panel in panels for curve in panel.curves]
        top = max(100 * value for curve in curves for value in (*curve.accuracy, *(curve.high or ()))) or 1.0
        row[0].set(ylabel="accuracy (%)", ylim=(0, min(103, 1.12 * top)))
        if wide:
            figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8)
        else:
            row[0].legend(loc="best", fontsize=8)
        png, svg, data = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg", "json"))
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None})
    values = {"title": title, "panels": [{"x": p.x, "curves": [vars(curve) for curve in p.curves]} for p in panels]}
    write_whole(data, json.dumps(values, indent=1) + "\n")
    return [png, svg, data]


def _panel(axes: Axes, panel: Panel) -> None:
    for at, curve in enumerate(panel.curves):
        rounds, colour = divmod(at, len(_COLOURS))  # a second round of colours has other markers, and hollow ones
        _plot(
            axes,
            curve,
            _COLOURS[colour],
            _MARKERS[(at + rounds) % len(_MARKERS)],
            rounds % 2 == 1,
            len(panel.curves) > _MANY,
        )
    axes.set(xscale="log", xlabel=panel.x)
    found = [x for curve in panel.curves for x in curve.tokens if x > 0]
    if found:
        low, high = min(found) / 1.2, max(found) * 1.25
        ticks = _ticks(low, high)
        if any(x == 0 for curve in panel.curves for x in curve.tokens):  # no thinking at all: left of the powers of two
            axes.set_xscale("symlog", base=2, linthresh=min(found), linscale=0.7)
            low, ticks = -0.15 * min(found), [0, *ticks]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlim(low, high)
    else:  # the axis's own numbers would be formulas
        axes.set_xticks([])
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def _plot(axes: Axes, curve: Curve, colour: str, marker: str, hollow: bool, crowd: bool) -> None:
    points = sorted(range(len(curve.tokens)), key=lambda i: curve.tokens[i])
    x, y = [curve.tokens[i] for i in points], [100 * curve.accuracy[i] for i in points]
    # a point at 0 is drawn whole, on the axis
    face = "white" if hollow else colour
    axes.plot(x, y, marker=marker, markersize=4, mfc=face, color=colour, label=curve.name, clip_on=False, zorder=3)
    if curve.low is not None and curve.high is not None:
        low, high = [100 * curve.low[i] for i in points], [100 * curve.high[i] for i in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if len(points) == 1:  # a band of one point is not to be seen
            shown = {"alpha": 0.2, "linewidth": 1} if crowd else {"capsize": 3}  # points must be seen behind points
            axes.errorbar(x, y, yerr=[[max(0.0, y[0] - low[0])], [max(0.0, high[0] - y[0])]], color=colour, **shown)
    for text, at, value in _labels(curve, points):
        shift, side = ((4, -10), "left") if curve.below else ((-4, 4), "right")
        if value < 5:
            shift, side = (0, 6), "center"  # below it are the axis's own numbers
        axes.annotate(text, (at, value), shift, textcoords="offset points", ha=side, fontsize=7, color=colour)


def _labels(curve: Curve, points: Sequence[int]) -> list[tuple[str, float, float]]:
    """What stands beside which point; points on one spot share a label, such as 128-512."""
    spots: list[list[int]] = []
    for i in points if curve.labels else ():
        last = spots[-1][-1] if spots else i
        near = curve.tokens[i] < 1.1 * curve.tokens[last] and abs(curve.accuracy[i] - curve.accuracy[last]) < 0.02
        if spots and near:
            spots[-1].append(i)
        else:
            spots.append([i])
    ends = [(spot[0], spot[-1]) for spot in spots]
    return [
        (
            curve.labels[first] if first == last else f"{curve.labels[first]}-{curve.labels[last]}",
            curve.tokens[last],
            100 * curve.accuracy[last],
        )
        for first, last in ends
    ]


def _ticks(low: float, high: float) -> list[int]:
    """Powers of two from `low` to `high`, every second one where they would be many; few are filled up in between."""
    powers = [2**i for i in range(31) if low <= 2**i <= high]
    if len(powers) < 3:
        between = [3 * 2**i for i in range(30) if low <= 3 * 2**i <= high]
        powers = sorted({*powers, *between} or {round(low), round(high)})
    return powers[:: 1 if len(powers) <= 10 else 2]
