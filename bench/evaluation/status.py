"""How far a run is, from its log alone: also while another process writes it."""

import time
from collections import Counter
from pathlib import Path

from bench.evaluation.grade import load_grid, load_tasks
from bench.evaluation.log import sample_rows

_RECENT = 200
"""Rows that the rate is taken from: the last ones, so that a pause before them does not count."""


def text(folder: Path) -> str:
    """Samples done and wanted per condition, errors, the rate of the last rows and the time left at that rate.

    Raises InputError where no run is there.
    """
    grid, tasks = load_grid(folder), load_tasks(folder)
    done: Counter[tuple[str, str]] = Counter()
    errors, times = 0, []
    for row in sample_rows(folder):
        done[row["task"], row["condition"]] += 1
        errors += row["error"] is not None
        times.append(row["at"])
    wanted = {(t.name, c.label): len(t.problems) * c.samples for t in tasks.values() for c in grid.conditions()}
    in_all, wanted_in_all = sum(done.values()), sum(wanted.values())
    lines = [
        *(f"{task:14} {label:40} {done[task, label]:7,} of {count:,}" for (task, label), count in wanted.items()),
        f"{'all':55} {in_all:7,} of {wanted_in_all:,}" + (f", {errors} errors" if errors else ""),
    ]
    recent = times[-_RECENT:]
    if in_all < wanted_in_all and len(recent) > 1 and recent[-1] > recent[0]:
        rate = (len(recent) - 1) / (recent[-1] - recent[0])
        lines.append(
            f"{rate:.2f} samples/s over the last {len(recent)}, about {(wanted_in_all - in_all) / rate:,.0f} s left at "
            f"that rate; the last one {time.time() - recent[-1]:,.0f} s ago"
        )
    return "\n".join(lines)
