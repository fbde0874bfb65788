"""The curves of runs, drawn by `python -m train.plot RUN [RUN ...]`: loss, gradient norm, learning rate, speed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

from engine.command.append_log import read_lines
from engine.command.flags import read_flags
from engine.errors import InputError, tell
from train.errors import TrainingError

PANELS = (("loss", "loss"), ("grad_norm", "gradient norm"), ("lr", "learning rate"), ("tokens_per_second", "tokens/s"))


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
    names = ["step", "heldout_loss"] if value.get("step") == 0 else ["step", "epoch", *(name for name, _ in PANELS)]
    found = [*(value.get(name) for name in names), value.get("heldout_loss", 0.0)]
    return all(isinstance(number, (int, float)) and not abs(number) > 1e300 for number in found)  # NaN is one


def draw(runs: Sequence[Path], output: Path) -> None:
    """Writes the picture; the format is that of the file's name. Raises TrainingError where that is none."""
    try:
        from matplotlib import rc_context  # Optional: only plots need it.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError("train.plot needs matplotlib: pip install matplotlib") from error
    with rc_context({"text.parse_math": False}):  # a dollar sign in a name begins no formula
        figure = _figure(Figure(figsize=(10, 7), layout="constrained"), runs)
        known = figure.canvas.get_supported_filetypes()
        if output.suffix[1:].lower() not in known:
            raise TrainingError(f"{output}: no picture by its name; end it in .{', .'.join(sorted(known))}")
        try:
            figure.savefig(output, dpi=150)
        except OSError as error:
            raise TrainingError(f"{output}: cannot be written: {error.strerror}; choose another place") from error


def _figure(figure: Any, runs: Sequence[Path]) -> Any:
    """The curves in an empty figure."""
    panels = figure.subplots(2, 2).flatten()
    for run in runs:
        every = read_metrics(run)
        records = [r for r in every if r["step"] > 0]  # before the first one there is the held-out loss alone
        for axes, (name, title) in zip(panels, PANELS, strict=True):
            line = axes.plot([r["step"] for r in records], [r[name] for r in records], label=run.name, linewidth=1)[0]
            axes.set(title=title, xlabel="step")
            held = [(r["step"], r["heldout_loss"]) for r in every if "heldout_loss" in r]
            if name == "loss" and held:
                axes.plot(*zip(*held, strict=True), "o--", color=line.get_color(), label=f"{run.name}, held out")
        epochs = [b["step"] for a, b in pairwise(records) if a["epoch"] != b["epoch"]]
        if len(epochs) <= 20:  # beyond that the lines would be all there is to see
            for step in epochs:
                panels[0].axvline(step, color="0.85", linewidth=0.8, zorder=0)
    panels[0].legend(fontsize="small")
    return figure


@dataclass(frozen=True)
class Arguments:
    """Whose curves are drawn, and where to."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of train.sft."""
    output: Path | None = None
    """The picture to write; None: curves.png in the first run's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves; returns the exit code: 0, or 2 for input that cannot be used."""
    try:
        arguments = read_flags(Arguments, argv, "python -m train.plot", "Draws the curves of runs.")
        if not arguments.runs:
            raise TrainingError("no run; give at least one run folder")
        output = arguments.output or arguments.runs[0] / "curves.png"
        draw(arguments.runs, output)
    except InputError as error:
        tell(error, "train.plot")
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
