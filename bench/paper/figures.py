"""The page's figures, from `paper.json`, in the project's one style."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.evaluation.panels import Curve, Panel, drawn
from engine.figure_style import Theme, draw_legend, save

NAMES = {
    "paper": "s1's selection",
    "random": "at random",
    "diverse": "diverse",
    "longest": "longest",
    "full": "all of the pool",
}


def draw(told: Mapping[str, Any], folder: Path) -> None:
    """Write every figure as PNG and as SVG on white and on dark."""
    _curves(folder / "paper_scaling", "Accuracy against thinking: s1-nano", *_scaling(told["figure1"]))
    _curves(folder / "paper_parallel", "One longer thought, votes and trees: s1-nano", *_parallel(told["figure7"]))
    save(partial(forest, _differences(told)), folder / "paper_data")
    _curves(folder / "paper_control", "Ways to say how long a model shall think", *_control(told["table3"]))
    _curves(folder / "paper_limits", "Until the context is full", *_limits(told["limits"]))
    save(partial(sizes, told["sizes"]), folder / "paper_sizes")


def _curves(stem: Path, title: str, *panels: Panel) -> None:
    save(partial(drawn, panels, title), stem)


def _curve(
    name: str, rows: Sequence[Mapping[str, Any]], x: str = "thinking", labels: Sequence[str] = (), below: bool = False
) -> Curve:
    value, low, high = ([row["accuracy"][end] for row in rows] for end in ("value", "low", "high"))
    return Curve(name, [row[x] for row in rows], value, low, high, labels, below)


def _scaling(groups: Mapping[str, Any]) -> list[Panel]:
    return [
        Panel(
            f"thinking tokens, {name}",
            [
                _curve(
                    "budgets",
                    one["budgets"]["points"],
                    labels=[p["name"].split()[-1] for p in one["budgets"]["points"]],
                    below=True,
                ),
                _curve(
                    '"Wait"s', one["waits"]["points"], labels=[p["name"].split()[0] for p in one["waits"]["points"]]
                ),
            ],
        )
        for name, one in groups.items()
    ]


def _parallel(found: Mapping[str, Any]) -> list[Panel]:
    alone = sorted(found["sequential"], key=lambda row: row["tokens"])
    kinds = {"one thought: budgets and Waits": alone, "majority of k": found["majority"], "REBASE": found["rebase"]}
    return [
        Panel("tokens that a question costs in all", [_curve(name, rows, "tokens") for name, rows in kinds.items()])
    ]


def _control(found: Mapping[str, Any]) -> list[Panel]:
    curves = {name: sorted(one["points"], key=lambda row: row["thinking"]) for name, one in found["curves"].items()}
    asked = ("budget forcing", "rejection", "class-conditional")
    return [
        Panel("thinking tokens", [_curve(name, curves[name]) for name in asked]),
        Panel("thinking tokens", [_curve(name, rows) for name, rows in curves.items() if name not in asked]),
    ]


def _limits(found: Mapping[str, Any]) -> list[Panel]:
    rows = found["rows"]
    stretched = [
        _curve("as trained" if factor == "1" else f"YaRN {factor}", points)
        for factor, points in found["stretched"].items()
    ]
    return [
        Panel(
            "thinking tokens, s1-nano, more and more Waits",
            [_curve("s1-nano", rows, labels=[row["name"].split()[0] for row in rows])],
        ),
        Panel(f"thinking tokens, trained on texts of {found['trained']}, more and more Waits", stretched),
    ]


def _differences(told: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Set -> group -> difference to our own selection."""
    return {
        row["name"]: {**{g: one["difference"] for g, one in row["groups"].items()}, "all questions": row["difference"]}
        for row in told["table2"]["rows"]
        if "difference" in row
    }


def forest(differences: Mapping[str, Mapping[str, Mapping[str, float]]], theme: Theme) -> Figure:
    """Differences of accuracy with their intervals, a row for each set, a colour for each group of questions."""
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    figure.suptitle("What a thousand is chosen by, against s1's selection")
    axes = figure.subplots()
    groups = list(next(iter(differences.values())))
    apart = 0.18
    handles: dict[str, Any] = {}
    for row, of in enumerate(differences.values()):
        for at, group in enumerate(groups):
            value, low, high = (100 * of[group][name] for name in ("value", "low", "high"))
            y = row + (at - (len(groups) - 1) / 2) * apart
            colour = theme.ink if group == "all questions" else theme.curves[at]
            handles[group] = axes.errorbar(
                [value],
                [y],
                xerr=[[value - low], [high - value]],
                fmt="osD^"[at],
                color=colour,
                markersize=4,
                linewidth=1.2,
                label=group,
            )
    axes.axvline(0, color=theme.quiet, linewidth=1)
    axes.set_yticks(range(len(differences)), [NAMES[name] for name in differences])
    axes.invert_yaxis()
    axes.set_xlabel("percentage points of accuracy, with 95 % intervals over questions and training seeds")
    draw_legend(figure, list(handles.values()))
    return figure


def sizes(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Accuracy against the number of samples, with every seed."""
    figure = Figure(figsize=(6.8, 3.2), layout="constrained")
    figure.suptitle("How many samples it takes: random sets, equal steps")
    axes, rows = figure.subplots(), found["rows"]
    x = [row["samples"] for row in rows]
    value, low, high = ([100 * row["accuracy"][name] for row in rows] for name in ("value", "low", "high"))
    axes.fill_between(x, low, high, color=theme.curves[0], alpha=0.15, linewidth=0)
    axes.plot(x, value, "o-", color=theme.curves[0])
    for row in rows:
        axes.plot([row["samples"]] * len(row["seeds"]), [100 * one for one in row["seeds"]], "_", color=theme.ink)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{one:,}" for one in x])
    axes.minorticks_off()
    axes.set(xlabel="training samples (each short line: one training seed)", ylabel="accuracy (%)", ylim=(0, None))
    return figure
