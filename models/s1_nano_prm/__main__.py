"""Make s1-nano's process reward model: traces, labels, three variants on the same traces, the model itself, its card.

    python -m models.s1_nano_prm

Under half an hour on two CPU cores. Each part is kept in `--out` and not made again; the table goes into the card.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import Engine, InputError
from engine.command.flags import read_flags
from engine.errors import tell
from engine.whole_file import write_whole
from models.s1_nano_prm.measures import Measures, best_threshold, f1, label_accuracy, measure
from models.s1_nano_prm.traces import ROLLOUTS, Trace, questions, read, roll_out, sample, write
from models.s1_nano_prm.training import Recipe, Scorer, judged, train, write_checkpoint

BEGIN, END = "<!-- measures: begin (python -m models.s1_nano_prm) -->", "<!-- measures: end -->"
SAMPLES = 4
"""of each question"""
DEV = 480
"""Traces that choose a threshold, and are not trained on."""
VARIANTS = {
    "exact labels, whole decoder": Recipe(),
    "exact labels, head alone": Recipe(whole=False, epochs=6, learning_rate=2e-3),
    "labels by rollouts, whole decoder": Recipe(labels="rollouts"),
}


@dataclass(frozen=True)
class Arguments:
    """What is made of what."""

    base: Path = Path("models/s1-nano")
    """The policy, which the reward model starts from."""
    out: Path = Path("runs/s1_nano_prm")
    """Folder of the traces, which are kept by seed and count."""
    checkpoint: Path = Path("models/s1-nano-prm")
    """Folder of the reward model; where it has a README.md with the marks, the table goes between them."""
    count: int = 10000
    """Questions of the families' train side, for the model."""
    compared: int = 1200
    """The first so many of them have rollouts, and the variants are trained on these."""
    heldout: int = 300
    """Questions of the held-out side, to measure on."""
    epochs: int = 2
    learning_rate: float = 1e-3
    seed: int = 31


def main(argv: list[str] | None = None) -> int:
    """Exit code 2, with a line that says why, where it cannot be made."""
    try:
        build(read_flags(Arguments, argv, "python -m models.s1_nano_prm", __doc__))
    except (InputError, OSError) as error:
        tell(error if isinstance(error, InputError) else InputError(f"the model cannot be written: {error}"))
        return 2
    return 0


def build(arguments: Arguments) -> None:
    """Everything, and the table."""
    begun = time.monotonic()
    least = DEV // SAMPLES * 2
    if not least <= arguments.compared <= arguments.count or arguments.heldout < 1:
        raise InputError(
            f"count is {arguments.count}, compared {arguments.compared}, heldout {arguments.heldout}; give compared "
            f"from {least} to count, and heldout of at least 1"
        )
    arguments.checkpoint.mkdir(parents=True, exist_ok=True)
    card = arguments.checkpoint / "README.md"
    around = _around(card) if card.exists() else None
    every, compared, test = _traces(arguments)
    rows = []
    for name, recipe in VARIANTS.items():
        rows.append((f"{name}, {len(compared):,} traces", _trained(arguments.base, compared, test, recipe)[0]))
    recipe = Recipe(epochs=arguments.epochs, learning_rate=arguments.learning_rate)
    best, scores, scorer = _trained(arguments.base, every, test, recipe)
    rows.append((f"**committed**: exact labels, whole decoder, {len(every):,} traces", best))
    write_checkpoint(scorer, arguments.base, arguments.checkpoint)
    text = _table(rows, test, scores, best.threshold, (time.monotonic() - begun) / 60)
    print(text)
    if around is not None:
        write_whole(card, f"{around[0]}{BEGIN}\n\n{text}\n{END}{around[1]}")


def _around(card: Path) -> tuple[str, str]:
    """What stands before and behind the table's place."""
    before, found, rest = card.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise InputError(f"{card} has no {BEGIN} and {END}; add them, or remove the file")
    return before, after


def _traces(arguments: Arguments) -> tuple[list[Trace], list[Trace], list[Trace]]:
    """(all for training, those of them with rollouts, held out)."""
    seed, place = arguments.seed, arguments.seed * 1_000_000
    names = (f"train-{seed}-{arguments.count}", f"compared-{seed}-{arguments.count}-{arguments.compared}")
    traced, rolled, heldout = files = [
        arguments.out / f"{name}.jsonl" for name in (*names, f"heldout-{seed}-{arguments.heldout}")
    ]
    if not all(file.exists() for file in files):
        with Engine(arguments.base, device="cpu", dtype="float32", max_num_seqs=64) as engine:
            if not traced.exists():
                write(traced, sample(engine, questions("train", arguments.count, seed), SAMPLES, place))
            if not rolled.exists():
                some = list(read(traced))[: arguments.compared * SAMPLES]
                write(rolled, roll_out(engine, some, place + 400_000))
            if not heldout.exists():
                asked = questions("heldout", arguments.heldout, seed + 1)
                write(heldout, roll_out(engine, sample(engine, asked, SAMPLES, place + 200_000), place + 600_000))
    every, compared, test = (list(read(file)) for file in files)
    return every, compared, test


def _trained(
    base: Path, traces: Sequence[Trace], test: Sequence[Trace], recipe: Recipe
) -> tuple[Measures, list[list[float]], Scorer]:
    """A scorer, what it says of the steps of `test`, and how good that is."""
    scorer = train(base, traces[:-DEV], recipe)
    threshold = best_threshold(traces[-DEV:], judged(scorer, traces[-DEV:]))
    scores = judged(scorer, test)
    return measure(test, scores, threshold), scores, scorer


def _table(
    rows: Sequence[tuple[str, Measures]],
    test: Sequence[Trace],
    scores: Sequence[Sequence[float]],
    threshold: float,
    minutes: float,
) -> str:
    wrong = sum(trace.first_error is not None for trace in test)
    lines = [
        f"{len(test):,} held-out traces, {wrong} of them with a wrong line; made in {minutes:.0f} minutes.",
        "",
        "| variant | F1 | errors found | faultless passed | AUROC of lines | calibration error | AUROC of answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in rows:
        shares = (m.f1, m.found, m.passed, m.auroc, m.calibration, m.answer_auroc)
        lines.append(f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |")
    lines += [
        "",
        "| of the committed one, by family | traces | F1 | errors found | faultless passed |",
        "|---|---|---|---|---|",
    ]
    for family in sorted({trace.family for trace in test}):
        mine = [at for at, trace in enumerate(test) if trace.family == family]
        of = f1([test[at] for at in mine], [scores[at] for at in mine], threshold)
        lines.append(f"| {family} | {len(mine)} | {' | '.join(f'{100 * share:.1f}' for share in of)} |")
    agree, same = label_accuracy(test)
    return "\n".join(
        [
            *lines,
            "",
            f"Labels by {ROLLOUTS} rollouts agree with the exact ones on {100 * agree:.1f} % of the lines up to the",
            f"first error, and name the same first error in {100 * same:.1f} % of the traces that have one.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
