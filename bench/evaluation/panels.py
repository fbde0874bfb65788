"""A figure of accuracy against tokens or cost: curves with their intervals, in one panel or in several side by side."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.evaluation.point_labels import Labelled, write_labels
from engine.figure_style import Theme, draw_legend, settle

_MARKERS = "osD^vPX*"


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


def drawn(panels: Sequence[Panel], title: str, theme: Theme) -> Figure:
    """The figure of `panels`, which share the axis of accuracy, with a legend below them."""
    figure = Figure(figsize=(9.6 if len(panels) > 1 else 6.8, 4.0), layout="constrained")
    figure.suptitle(textwrap.fill(title, 90))
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    lines: dict[str, Line2D] = {}
    for axes, panel in zip(row, panels, strict=True):
        crowd = len(panel.curves) > len(theme.curves)
        for curve in panel.curves:
            lines[curve.name] = _draw_curve(axes, curve, names.index(curve.name), theme, crowd)
        _scale_tokens(axes, [x for curve in panel.curves for x in curve.tokens], most=16 // (1 + len(panels)))
        axes.set_xlabel(panel.x)
    curves = [curve for panel in panels for curve in panel.curves]
    top = max(100 * value for curve in curves for value in (*curve.accuracy, *(curve.high or ())))
    row[0].set(ylabel="accuracy (%)", ylim=(0, min(103, max(5, 1.12 * top))))
    draw_legend(figure, [lines[name] for name in names])
    settle(figure)
    for axes, panel in zip(row, panels, strict=True):
        write_labels(axes, [_labelled(curve, names.index(curve.name), theme) for curve in panel.curves])
    return figure


def _draw_curve(axes: Axes, curve: Curve, at: int, theme: Theme, crowd: bool) -> Line2D:
    """Its line; with `crowd`, intervals are drawn thinly, because points must be seen behind points."""
    rounds, hue = divmod(at, len(theme.curves))  # a second round of colours has other markers, hollow and dashed
    colour, points = theme.curves[hue], _from_left(curve)
    x, y = [curve.tokens[i] for i in points], [100 * curve.accuracy[i] for i in points]
    (line,) = axes.plot(
        x,
        y,
        "--" if rounds % 2 else "-",
        color=colour,
        marker=_MARKERS[(at + rounds) % len(_MARKERS)],
        markerfacecolor=theme.paper if rounds % 2 else colour,
        label=curve.name,
        clip_on=False,  # a point at 0 is drawn whole, on the axis
        zorder=3,
    )
    if curve.low is not None and curve.high is not None:
        low, high = [100 * curve.low[i] for i in points], [100 * curve.high[i] for i in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.06 if crowd else 0.15, linewidth=0)
        if len(points) == 1:  # a band of one point is not to be seen
            bars = [[max(0.0, y[0] - low[0])], [max(0.0, high[0] - y[0])]]
            axes.errorbar(
                x, y, yerr=bars, color=colour, alpha=0.3 if crowd else 1, linewidth=1, capsize=0 if crowd else 3
            )
    return line


def _labelled(curve: Curve, at: int, theme: Theme) -> Labelled:
    """The points of a curve, with labels in its colour made as dark, or as light, as letters must be to be read."""
    colour = (
        0.55 * a + 0.45 * b
        for a, b in zip(*map(to_rgb, (theme.curves[at % len(theme.curves)], theme.ink)), strict=True)
    )
    points = _from_left(curve)
    return Labelled(
        [(curve.tokens[i], 100 * curve.accuracy[i]) for i in points],
        [curve.labels[i] for i in points] if curve.labels else (),
        to_hex(tuple(colour)),
        curve.below,
    )


def _from_left(curve: Curve) -> list[int]:
    return sorted(range(len(curve.tokens)), key=lambda i: curve.tokens[i])


def _scale_tokens(axes: Axes, tokens: Sequence[float], most: int) -> None:
    """Doublings to the right, with at most `most` numbers; what is less than 1 has a place of its own left of them."""
    least = min((x for x in tokens if x >= 1), default=1.0)
    low, high = least / 1.2, max(1.0, *tokens) * 1.25
    ticks = _ticks(low, high, most)
    if min(tokens) < 1:
        axes.set_xscale("symlog", base=2, linthresh=least, linscale=0.7)
        low, ticks = -0.15 * least, [0, *ticks]
    else:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(low, high)
    axes.minorticks_off()


def _ticks(low: float, high: float, most: int) -> list[int]:
    """Powers of two from `low` to `high`, some left out where they would be many; few are filled up in between."""
    powers = [2**i for i in range(60) if low <= 2**i <= high]
    if len(powers) < 3:
        between = [3 * 2**i for i in range(60) if low <= 3 * 2**i <= high]
        powers = sorted({*powers, *between})
    if len(powers) < 2:
        powers = sorted({round(low), round(high)})
    return powers[:: -(-len(powers) // most)]
