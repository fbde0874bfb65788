"""The funnel of the report: how many rows came to each stage, how many went on, and what the others were dropped by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Step:
    """A stage of the funnel. `rules` are what it dropped rows by, most rows first, `shape` the corners of its part in a
    field of 100 by 10."""

    stage: str
    rows: int
    kept: int
    rules: list[tuple[str, int]]
    shape: str


def funnel(decisions: Mapping[str, pl.DataFrame], drops: Sequence[tuple[str, str, int, Any]]) -> list[Step]:
    """The stages that keep or drop rows, in their order. `drops`: stage, rule, rows, and what else there is."""
    sizes = {stage: (table.height, int(table["keep"].sum())) for stage, table in decisions.items()}
    most = max([1, *(rows for rows, _ in sizes.values())])
    steps = []
    for stage, both in sizes.items():
        (a, b), (c, d) = ((50 - half, 50 + half) for half in (max(0.2, 50 * n / most) for n in both))
        shape = f"{a:.2f},0 {b:.2f},0 {d:.2f},10 {c:.2f},10"
        steps.append(Step(stage, *both, [(rule, count) for name, rule, count, _ in drops if name == stage], shape))
    return steps
