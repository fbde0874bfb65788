"""The report's plots."""

import textwrap
from statistics import median

import polars as pl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from engine.figure_style import Theme, draw_legend

WIDTH = 5.4
"""Inches: no more than a telephone can show with letters that can be read."""
LONGEST = 42
"""Characters of a domain's title that are shown."""


def domain_plot(table: pl.DataFrame, theme: Theme) -> Figure:
    """Shares of every domain of `table` [title, pool, selected] in the pool and in what was selected, with the counts
    beside them; the largest pool first."""
    table = table.sort("pool", "title", descending=[False, True])
    figure = Figure(figsize=(WIDTH, 1.5 + 0.185 * max(3, table.height)), layout="constrained")
    axes = figure.subplots()
    rows, names = range(table.height), [textwrap.shorten(name, LONGEST, placeholder=" …") for name in table["title"]]
    shares = {name: [100 * n / max(1, table[name].sum()) for n in table[name]] for name in ("pool", "selected")}
    axes.hlines(rows, shares["pool"], shares["selected"], color=theme.quiet, linewidth=1)
    for (name, values), marker, size in zip(shares.items(), "os", (6, 4), strict=True):  # both are seen on one spot
        axes.plot(values, rows, marker, markersize=size, label=f"{name} ({table[name].sum():,})", clip_on=False)
    axes.set_yticks(rows, names, fontsize=7.5)
    counts = [f"{pool:,} → {selected:,}" for pool, selected in table.select("pool", "selected").iter_rows()]
    beside = axes.secondary_yaxis("right")
    beside.spines["right"].set_visible(False)
    beside.set_yticks([*rows, table.height], [*counts, "pool → selected"], fontsize=7.5)
    for each in (axes, beside):
        each.tick_params(axis="y", length=0, pad=6)
    top = max([1, *shares["pool"], *shares["selected"]])
    axes.set(xlabel="share", xlim=(0, 1.03 * top), ylim=(-0.7, table.height + 0.3))
    _percent(axes.xaxis)
    draw_legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def length_plot(lengths: dict[str, list[int]], theme: Theme) -> Figure:
    """Histograms of trace tokens for the two names in `lengths`: the first filled, the second a line over it."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    top = max((max(values) for values in lengths.values() if values), default=1)
    for at, ((name, values), colour) in enumerate(zip(lengths.items(), theme.curves, strict=False)):
        middle = f", median {median(values):,.0f}" if values else ""
        axes.hist(
            values,
            bins=40,
            range=(0, top),
            weights=[100 / len(values)] * len(values) if values else [],
            label=f"{name} ({len(values):,}{middle})",
            color=colour,
            histtype="step" if at else "stepfilled",
            alpha=1 if at else 0.45,
            linewidth=1.6 if at else 0,
        )
    axes.set(xlabel="tokens of the trace", ylabel="share", xlim=(0, top), ylim=(0, max(1, axes.get_ylim()[1])))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _percent(axes.yaxis)
    draw_legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def _percent(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_major_formatter(PercentFormatter(decimals=0))
