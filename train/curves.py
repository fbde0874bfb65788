"""One figure of the curves of runs: loss and held-out loss above, learning rate, gradient norm and speed below."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from engine.figure_style import Theme, draw_legend

BELOW = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
FEW = 30
"""Up to so many steps are drawn as points too."""


@dataclass(frozen=True)
class Run:
    """A run by its name, and what it reported, in the order of steps: of step 0 the held-out loss alone."""

    name: str
    records: Sequence[dict[str, Any]]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The records of steps that were trained."""
        return [record for record in self.records if record["step"] > 0]


def window_of(runs: Sequence[Run]) -> int:
    """How many reported steps a smoothed curve takes the mean of: a twentieth of the longest run's, an odd number."""
    return max(len(run.steps) for run in runs) // 20 // 2 * 2 + 1


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of `window` values around each, an odd number; of those that there are near the ends."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def curves(runs: Sequence[Run], theme: Theme) -> Figure:
    """The figure of `runs`."""
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    panels = figure.subplot_mosaic([["loss"] * 3, [*BELOW]], height_ratios=[1.8, 1])
    window, looks = window_of(runs), [_look(at, theme) for at in range(len(runs))]
    for run, look in zip(runs, looks, strict=True):
        for name, axes in panels.items():
            _draw(axes, run, name, 1 if name == "lr" else window, look)
        held = [(record["step"], record["heldout_loss"]) for record in run.records if "heldout_loss" in record]
        if held:
            panels["loss"].plot(*zip(*held, strict=True), **look | HELD, markerfacecolor=theme.paper)
    last = max(record["step"] for run in runs for record in run.records) or 1
    for name, axes in panels.items():
        axes.set(title=BELOW.get(name, name), xlabel="step", xlim=(-0.02 * last, 1.02 * last))
        axes.xaxis.set_major_locator(MaxNLocator(8 if name == "loss" else 4, integer=True))
    speeds = [record["tokens_per_second"] for run in runs for record in run.steps]
    panels["tokens_per_second"].set_ylim(0, 1.15 * max(speeds, default=1))
    panels["tokens_per_second"].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if len(runs) == 1:
        figure.suptitle(runs[0].name)
        _mark_epochs(panels["loss"], runs[0], theme)
    else:
        whose = [Line2D([], [], label=run.name, **look) for run, look in zip(runs, looks, strict=True)]
        draw_legend(figure, whose, "outside upper center")
    draw_legend(figure, _kinds(runs, window, theme))
    return figure


def _look(at: int, theme: Theme) -> dict[str, Any]:
    """Of the lines of a run: a second round of colours is dotted."""
    rounds, hue = divmod(at, len(theme.curves))
    return {"color": theme.curves[hue], "linestyle": ("-", ":", "-.")[rounds % 3]}


HELD: dict[str, Any] = {"marker": "o", "linestyle": "--", "linewidth": 1.2}
"""How held-out loss is drawn."""
RAW: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.45}
"""How single steps are drawn behind their mean."""


def _draw(axes: Axes, run: Run, name: str, window: int, look: dict[str, Any]) -> None:
    steps, values = [r["step"] for r in run.steps], [r[name] for r in run.steps]
    if window > 1:
        axes.plot(steps, values, **look | RAW)
    axes.plot(steps, smoothed(values, window), marker="o" if len(steps) <= FEW else "", markersize=3.5, **look)


def _mark_epochs(axes: Axes, run: Run, theme: Theme) -> None:
    epochs = [b["step"] for a, b in pairwise(run.steps) if a["epoch"] != b["epoch"]]
    if len(epochs) <= 20:  # beyond that the lines would be all there is to see
        for step in epochs:
            axes.axvline(step, color=theme.quiet, linewidth=0.6, alpha=0.6, zorder=0)


def _kinds(runs: Sequence[Run], window: int, theme: Theme) -> list[Line2D]:
    """What the legend says of lines that every run has."""
    colour = theme.curves[0] if len(runs) == 1 else theme.quiet
    mean = f"mean of {window} reported steps around each" if window > 1 else "each reported step"
    kinds = [Line2D([], [], color=colour, label=mean)]
    if window > 1:
        kinds.append(Line2D([], [], color=colour, label="each reported step", **RAW))
    if any("heldout_loss" in record for run in runs for record in run.records):
        kinds.append(Line2D([], [], color=colour, markerfacecolor=theme.paper, label="held-out loss", **HELD))
    return kinds
