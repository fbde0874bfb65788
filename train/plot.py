"""The curves of runs, drawn by `python -m train.plot RUN [RUN ...]`: loss and held-out loss, learning rate, gradient
norm, speed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import tyro

from engine.command.append_log import read_lines
from engine.command.flags import read_flags
from engine.errors import InputError, tell
from train.errors import TrainingError

FIELDS = ("loss", "grad_norm", "lr", "tokens_per_second")
"""What is drawn of every step."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The steps of a run folder, in order. Raises TrainingError when there are none."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise TrainingError(f"{run}: no metrics.jsonl; give a run folder of train.sft")
    with file.open("rb") as lines:  # a run that is still going may be in the middle of its last line
        records = [line.value for line in read_lines(lines, str(file), _is_step)]
    if not records:
        raise TrainingError(f"{file}: no step is finished yet")
    return records


def _is_step(value: dict[str, Any]) -> bool:
    names = ["step", "heldout_loss"] if value.get("step") == 0 else ["step", "epoch", *FIELDS]
    found = [*(value.get(name) for name in names), value.get("heldout_loss", 0.0)]
    return all(isinstance(number, (int, float)) and not abs(number) > 1e300 for number in found)  # NaN is one


def draw(runs: Sequence[Path], output: Path) -> list[Path]:
    """Write the picture, `output`, and beside it as SVG on white and on dark; returns the three files. Raises
    TrainingError where there is nothing to draw, or nowhere to write it."""
    try:
        from engine.figure_style import save  # Optional: only plots need matplotlib.
        from train.curves import Run, curves
    except ImportError as error:
        raise TrainingError("train.plot needs matplotlib: pip install matplotlib") from error
    if output.suffix != ".png":
        raise TrainingError(f"{output}: end it in .png; the same as .svg, on white and on dark, is written beside it")
    read = [Run(name, read_metrics(run)) for name, run in zip(_names(runs), runs, strict=True)]
    try:
        return save(partial(curves, read), output.with_suffix(""))
    except OSError as error:
        raise TrainingError(f"{output}: cannot be written: {error.strerror}; choose another place") from error


def _names(runs: Sequence[Path]) -> list[str]:
    """Their folders' names, with as many of the folders above as tell one from the others."""
    parts = [run.resolve().parts for run in runs]
    depths = (
        next(n for n in count(1) if all(mine[-n:] != other[-n:] for other in parts if other != mine)) for mine in parts
    )
    return ["/".join(mine[-n:]) for mine, n in zip(parts, depths, strict=True)]


@dataclass(frozen=True)
class Arguments:
    """Whose curves are drawn, and where to."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of train.sft."""
    output: Path | None = None
    """The PNG to write, with SVGs beside it; None: curves.png in the first run's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves; returns the exit code: 0, or 2 for input that cannot be used."""
    try:
        arguments = read_flags(Arguments, argv, "python -m train.plot", "Draws the curves of runs.")
        if not arguments.runs:
            raise TrainingError("no run; give at least one run folder")
        output = arguments.output or arguments.runs[0] / "curves.png"
        files = draw(arguments.runs, output)
    except InputError as error:
        tell(error, "train.plot")
        return 2
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
