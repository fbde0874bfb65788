"""Two runs of the same conditions against each other, paired by problem: models, prompts, engines."""

from pathlib import Path
from statistics import fmean

from bench.evaluation import outcomes
from bench.evaluation.accuracy import change
from engine import InputError


def text(folder: Path, other: Path) -> str:
    """A Markdown table: what `other` differs by from `folder`, with 95 % paired bootstrap intervals and p-values.

    Raises InputError where one is no graded run, or they have no condition of the same task and name.
    """
    before, after = outcomes.load(folder), outcomes.load(other)
    known = {(cell.task, cell.condition.label): cell for cell in before.cells}
    lines = [
        f"{after.model} ({other.name}) less {before.model} ({folder.name})",
        "",
        "| task | condition | problems | accuracy | points | 95 % interval | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in after.cells:
        old = known.get((cell.task, cell.condition.label))
        found = {} if old is None else change(old, cell)
        if old is not None and "difference" in found:
            was, now = _on_the_same(old, cell)
            lines.append(
                f"| {cell.task} | {cell.condition.label} | {found['problems']} "
                f"| {was:.1%} to {now:.1%} | {100 * found['difference']:+.1f} "
                f"| {100 * found['low']:+.1f} to {100 * found['high']:+.1f} | {found['p_change']:.2g} |"
            )
    if len(lines) == 4:
        raise InputError(f"{folder} and {other} share no problem of one task and condition; compare runs of one grid")
    return "\n".join(lines)


def _on_the_same(old: outcomes.Cell, new: outcomes.Cell) -> tuple[float, float]:
    """The accuracy of both on the problems that both have."""
    both = {*old.problems} & {*new.problems}
    was, now = (fmean(m for p, m in zip(c.problems, c.means, strict=True) if p in both) for c in (old, new))
    return was, now
