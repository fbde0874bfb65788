"""Two models for the offline run: s1-nano's recipe before fine-tuning, at two smaller sizes, rebuilt in minutes.

    python -m curate.small_models --out runs/small

writes <out>/small-a and <out>/small-b. They are made to be weak: what both fail at is what the pipeline keeps.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from curate.nano.corpus import pretraining_records, write_jsonl
from curate.nano_build import train, write_base
from curate.progress import Bars
from engine.command.flags import read_flags
from engine.errors import InputError, tell

RECIPE = "s1_nano_pretrain.yaml"


@dataclass(frozen=True)
class Size:
    """One of the models: its shape, the questions it is trained on, and the seed of both."""

    name: str
    shape: tuple[int, int, int, int]
    """Hidden size, layers, heads, intermediate size."""
    problems: int
    seed: int


SIZES = (
    Size("small-a", (64, 4, 2, 192), problems=40_000, seed=101),
    Size("small-b", (96, 3, 2, 256), problems=30_000, seed=102),
)


@dataclass(frozen=True)
class Arguments:
    """Where the two small models are built."""

    out: Path
    """Directory of the two checkpoints and, under `work`, of their corpora and runs."""
    only: tuple[str, ...] = ()
    """Names of those to build; none: both."""


def build(size: Size, out: Path, *settings: str) -> dict[str, float]:
    """Builds one checkpoint in `out`; returns steps, loss and minutes of wall time. `settings` go to the trainer."""
    started = time.perf_counter()
    work = out / "work" / size.name
    shutil.rmtree(work, ignore_errors=True)
    tokenizer = write_base(work / "base", size.seed, size.shape)
    with Bars(Console(stderr=True)).bar(f"{size.name} corpus", size.problems) as advance:
        write_jsonl(work / "pretrain.jsonl", pretraining_records(tokenizer, size.problems, size.seed), advance)
    figures = train(
        RECIPE,
        work / "run",
        size.seed,
        f"model.init={work / 'base' / 'config.json'}",
        f"data.train=[{work / 'pretrain.jsonl'}]",
        *settings,
    )
    folder = out / size.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "run" / "export", folder)
    report = {**figures, "wall_minutes": round((time.perf_counter() - started) / 60, 2)}
    (folder / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def main() -> None:
    """Build them, and print what each took."""
    try:
        arguments = read_flags(Arguments, None, "python -m curate.small_models", __doc__)
    except InputError as error:
        tell(error)
        raise SystemExit(2) from None
    known = [size.name for size in SIZES]
    if unknown := [name for name in arguments.only if name not in known]:
        raise SystemExit(f"error: no model {unknown[0]!r}; known: {', '.join(known)}")
    for size in SIZES:
        if not arguments.only or size.name in arguments.only:
            print(json.dumps({"model": size.name, **build(size, arguments.out)}))


if __name__ == "__main__":
    main()
