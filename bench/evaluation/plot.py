"""Figures from a report: PNG, SVG on white and on dark, and the plotted data as JSON, per task. The same report gives
the same files."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.evaluation.panels import Curve, Panel, drawn
from engine.figure_style import save
from engine.whole_file import write_whole


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
                files += write(folder / f"{task['task']}-{name}", panels, title)
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
    counts = [word for word in words if re.fullmatch(r"\d+x", word)]  # ahead of the string, which may be a number
    numbers = [word for word in reversed(words) if word.rstrip("x").isdigit()]
    return next(iter((*counts, *numbers, *words[-1:])), "")


def write(stem: Path, panels: Sequence[Panel], title: str) -> list[Path]:
    """Write one figure, and what is in it as JSON; returns the files."""
    files = save(partial(drawn, panels, title), stem)
    values = {"title": title, "panels": [{"x": p.x, "curves": [vars(curve) for curve in p.curves]} for p in panels]}
    data = stem.with_name(f"{stem.name}.json")
    write_whole(data, json.dumps(values, indent=1) + "\n")
    return [*files, data]
