"""Figures from a report: PNG, SVG and the plotted data as JSON, per task. The same report gives the same files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.evaluation.log import write_atomically

_COLOURS = ("#1b6ca8", "#d1495b", "#3c8d53", "#8e5ea2", "#b07d2b", "#4a4a4a", "#0f9ba8", "#a23b72")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Curve:
    """One line: tokens, and accuracy with its interval in [0, 1]; `labels` stand beside the points."""

    name: str
    tokens: Sequence[float]
    accuracy: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    labels: Sequence[str] = ()
    dashed: bool = False


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure that the report has the points for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for task in report["tasks"]:
        title = f"{report['model']}, {task['task']}: {task['problems']:,} problems"
        plots = {
            "accuracy": (sequential(task), "average thinking tokens"),
            "parallel": (parallel(task), "generated tokens per problem"),
            "rejection": (rejection(task), "average thinking tokens"),
        }
        for name, (curves, axis) in plots.items():
            if curves:
                files += _save(folder / f"{task['task']}-{name}", curves, axis, title)
    return files


def sequential(task: Mapping[str, Any]) -> list[Curve]:
    """Accuracy against average thinking tokens, a curve per series of conditions."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in task["conditions"]:
        if row["series"] != "rejection":
            series.setdefault(row["series"], []).append(row)
    return [_curve(name, rows) for name, rows in series.items()]


def rejection(task: Mapping[str, Any]) -> list[Curve]:
    """Rejection sampling beside budgets; empty where there is none."""
    rows = {name: [row for row in task["conditions"] if row["series"] == name] for name in ("rejection", "budget")}
    return [_curve(name, found) for name, found in rows.items() if found] if rows["rejection"] else []


def parallel(task: Mapping[str, Any]) -> list[Curve]:
    """Samples taken together, against all that they generate and along the longest; sequential scaling beside them."""
    curves = []
    for row in task["conditions"]:
        entries = row.get("at_k", ())
        if len(entries) < 2 or not row["series"].startswith("parallel"):
            continue
        budget = row["series"].removeprefix("parallel ")
        labels = [str(entry["k"]) for entry in entries]
        bands = list(zip(*(entry["majority_interval"] for entry in entries), strict=True))
        voted = [entry["majority"] for entry in entries]
        unique, path = ([entry[axis] for entry in entries] for axis in ("unique_tokens", "path_tokens"))
        curves.append(Curve(f"majority, {budget}", unique, voted, bands[0], bands[1], labels))
        curves.append(Curve(f"majority, {budget}, along the longest path", path, voted, dashed=True))
        if all(entry["best_of"] is not None for entry in entries):
            curves.append(Curve(f"best of k by log-probability, {budget}", unique, [e["best_of"] for e in entries]))
    if not curves:
        return []
    chosen = [row for row in task["conditions"] if row["series"] in ("budget", "extensions Wait")]
    rows = sorted(chosen, key=lambda row: row["completion_tokens"])
    tokens, accuracy = [row["completion_tokens"] for row in rows], [row["accuracy"] for row in rows]
    return [*curves, Curve("sequential: budgets and Waits", tokens, accuracy)] if len(rows) > 1 else curves


def _curve(name: str, rows: Sequence[Mapping[str, Any]]) -> Curve:
    return Curve(
        name, [row["thinking_tokens"] for row in rows], [row["accuracy"] for row in rows],
        [row["interval"]["low"] for row in rows], [row["interval"]["high"] for row in rows],
        [_short(row) for row in rows],
    )  # fmt: skip


def _short(row: Mapping[str, Any]) -> str:
    """The point's number: its budget, or how many extensions."""
    words = row["condition"].split()
    numbers = [word for word in words if word.rstrip("x").isdigit()]
    return numbers[-1] if numbers else words[-1]


def _save(stem: Path, curves: Sequence[Curve], axis: str, title: str) -> list[Path]:
    # Ids in an SVG are drawn at random otherwise, and the date would differ too.
    with matplotlib.rc_context({"svg.hashsalt": "s1-engine", "font.size": 9}):
        figure = Figure(figsize=(6.8, 4.2), layout="constrained")
        axes = figure.subplots()
        for at, curve in enumerate(curves):
            below = at % 2 == 0  # neighbouring curves have their labels on different sides
            _plot(axes, curve, _COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)], -10 if below else 5)
        axes.set(xscale="log", xlabel=axis, ylabel="accuracy (%)", title=title)
        axes.set_ylim(0, min(100, 1.12 * _top(curves)))
        ticks = _ticks([x for curve in curves for x in curve.tokens if x > 0])
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(loc="best", fontsize=8)
        png, svg, data = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg", "json"))
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None})
    values = {"title": title, "x": axis, "curves": [vars(curve) for curve in curves]}
    write_atomically(data, json.dumps(values, indent=1) + "\n")
    return [png, svg, data]


def _plot(axes: Axes, curve: Curve, colour: str, marker: str, label_at: float) -> None:
    points = sorted(range(len(curve.tokens)), key=lambda i: curve.tokens[i])
    x, y = [curve.tokens[i] for i in points], [100 * curve.accuracy[i] for i in points]
    line = "--" if curve.dashed else "-"
    axes.plot(x, y, marker=marker, markersize=4, color=colour, label=curve.name, linestyle=line)
    if curve.low is not None and curve.high is not None:
        low, high = [100 * curve.low[i] for i in points], [100 * curve.high[i] for i in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if len(points) == 1:  # a band of one point is not to be seen
            axes.errorbar(x, y, yerr=[[max(0.0, y[0] - low[0])], [max(0.0, high[0] - y[0])]], color=colour, capsize=3)
    for text, at, value in _labels(curve, points):
        axes.annotate(text, (at, value), textcoords="offset points", xytext=(4, label_at), fontsize=7, color=colour)


def _labels(curve: Curve, points: Sequence[int]) -> list[tuple[str, float, float]]:
    """What stands beside which point; points on one spot share a label, such as 128-512."""
    spots: list[list[int]] = []
    for i in points if curve.labels else ():
        last = spots[-1][-1] if spots else None
        near = last is not None and curve.tokens[i] < 1.04 * curve.tokens[last]
        if near and last is not None and abs(curve.accuracy[i] - curve.accuracy[last]) < 0.02:
            spots[-1].append(i)
        else:
            spots.append([i])
    found = []
    for spot in spots:
        names = [curve.labels[i] for i in spot]
        name = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
        found.append((name, curve.tokens[spot[-1]], 100 * curve.accuracy[spot[-1]]))
    return found


def _top(curves: Sequence[Curve]) -> float:
    return max(100 * value for curve in curves for value in (*curve.accuracy, *(curve.high or ()))) or 1.0


def _ticks(values: Sequence[float]) -> list[int]:
    """Powers of two around the values, every second one where they would be many."""
    low, high = (int(max(1, bound)).bit_length() for bound in (min(values), max(values)))
    powers = [2**i for i in range(low - 1, high + 1)]
    return powers[:: 1 if len(powers) <= 10 else 2]
