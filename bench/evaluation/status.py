"""How far a run is, from its log alone: also while another process writes it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from bench.evaluation.grade import load_grid, load_tasks
from bench.evaluation.log import read_rows

_RECENT = 200
"""Rows that the rate is taken from: the last ones, so that a pause before them does not count."""


def text(folder: Path) -> str:
    """Samples done and wanted per condition, errors, the rate of the last rows and the time left at that rate.

    Raises InputError where no run is there.
    """
    grid, tasks = load_grid(folder), load_tasks(folder)
    conditions = grid.conditions()
    done: Counter[tuple[str, str]] = Counter()
    errors, times = 0, []
    for row in read_rows(folder):
        if not row["condition"].startswith("trace "):
            done[row["task"], row["condition"]] += 1
            errors += row["error"] is not None
            times.append(row["at"])
    lines, wanted_in_all = [], 0
    for task in tasks.values():
        for condition in conditions:
            wanted = len(task.problems) * condition.samples
            wanted_in_all += wanted
            lines.append(f"{task.name:14} {condition.label:40} {done[task.name, condition.label]:7,} of {wanted:,}")
    in_all = sum(done.values())
    lines.append(f"{'all':55} {in_all:7,} of {wanted_in_all:,}" + (f", {errors} errors" if errors else ""))
    recent = times[-_RECENT:]
    if in_all < wanted_in_all and len(recent) > 1 and recent[-1] > recent[0]:
        rate = (len(recent) - 1) / (recent[-1] - recent[0])
        ago = time.time() - recent[-1]
        left = (wanted_in_all - in_all) / rate
        lines.append(
            f"{rate:.2f} samples/s over the last {len(recent)}, about {left:,.0f} s left at that rate; the "
            f"last one {ago:,.0f} s ago"
        )
    return "\n".join(lines)
