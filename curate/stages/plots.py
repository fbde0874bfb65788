"""The report's plots, as PNG."""

import io
from typing import Any

import polars as pl
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

POOL, SELECTED = "#8aa", "#c63"
"""Colours: of everything, and of what was picked."""


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


@rc_context({"text.parse_math": False})
def domain_plot(table: pl.DataFrame) -> bytes:
    """Bars of `table` [title, pool, selected], the largest pool first."""
    table = table.sort("pool", "title", descending=[False, True])
    figure = Figure(figsize=(9, max(2.5, 0.2 * table.height)))
    left, right = figure.subplots(1, 2, sharey=True)
    names = table["title"].to_list()
    for axes, column, color in ((left, "pool", POOL), (right, "selected", SELECTED)):
        axes.barh(names, table[column].to_list(), color=color)
        axes.set_title({"pool": "questions in the pool", "selected": "selected"}[column])
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return _png(figure)


@rc_context({"text.parse_math": False})
def length_plot(lengths: dict[str, list[int]]) -> bytes:
    """Histograms of trace tokens for the two names in `lengths`: the first filled, the second a line over it."""
    figure = Figure(figsize=(8, 3.5))
    axes = figure.subplots()
    top = max((max(values) for values in lengths.values() if values), default=1)
    styles: tuple[dict[str, Any], ...] = (
        {"histtype": "stepfilled", "color": POOL},
        {"histtype": "step", "color": SELECTED, "linewidth": 1.6},
    )
    for (name, values), style in zip(lengths.items(), styles, strict=True):
        share = [1 / len(values)] * len(values) if values else []
        axes.hist(values, bins=50, range=(0, top), weights=share, label=f"{name} ({len(values):,})", **style)
    axes.set(xlabel="tokens of the trace", ylabel="share")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)
