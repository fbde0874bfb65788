"""Two runs of the same conditions against each other, paired by problem: models, prompts, engines."""

from collections.abc import Iterator
from pathlib import Path

from bench.evaluation import outcomes
from bench.evaluation.accuracy import change
from bench.evaluation.grade import load_grid
from bench.evaluation.outcomes import Cell
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
            lines.append(
                f"| {cell.task} | {cell.condition.label} | {_shared(found['problems'], old, cell)} "
                f"| {found['before']:.1%} to {found['after']:.1%} | {100 * found['difference']:+.1f} "
                f"| {100 * found['low']:+.1f} to {100 * found['high']:+.1f} | {found['p_change']:.2g} |"
            )
    if len(lines) == 4:
        raise InputError(f"{folder} and {other} share no problem of one task and condition; compare runs of one grid")
    return "\n".join([*lines, *_settings(folder, other)])


_TOLD = (
    "prompt",
    "system",
    "temperature",
    "top_p",
    "thinking_format",
    "max_tokens",
    "answer_tokens",
    "min_answer_tokens",
)


def _settings(folder: Path, other: Path) -> Iterator[str]:
    """A line on what the two were asked with that is not the same, besides the model."""
    old, new = load_grid(folder), load_grid(other)
    told = [
        f"{name} {getattr(old, name)!r} / {getattr(new, name)!r}"
        for name in _TOLD
        if getattr(old, name) != getattr(new, name)
    ]
    if told:
        yield f"\nNot asked alike: {', '.join(told)}."


def _shared(both: int, old: Cell, new: Cell) -> str:
    """Problems that both have, of how many where one has more: all figures of the row are over these."""
    most = max(len(old.problems), len(new.problems))
    return f"{both}" if both == most else f"{both} of {most}"
