"""Writes questions of the families, one JSON object a line.

    python -m curate.families --split heldout --seed 7 --count 200 --out questions.jsonl

Held-out lines hold id, family, prompt and answer, are distinct questions, and are valid input of `python -m
engine.generate --input`; where a family has no more, others give the rest and a note on stderr says so. Train lines
come as training draws them, with repeats, and add difficulty (the "Wait"s it takes) and thinking, the written reasoning
with those "Wait"s in it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from curate.families import FAMILIES, Problem, problems
from curate.families.distinct import RanDry, draw_distinct
from curate.families.problem import thinking
from engine.command.append_log import json_line
from engine.command.flags import read_flags
from engine.errors import InputError, refuse, tell


@dataclass(frozen=True)
class Arguments:
    """How many questions of which families, and where to."""

    split: Literal["train", "heldout"]
    """Side of the split; a hash of the question decides it, never the seed."""
    out: Path
    """File to write."""
    seed: int = 0
    count: int = 200
    """Questions to write."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Families to take in turn."""


def line(problem: Problem, split: str, name: str) -> dict[str, object]:
    """The record of one problem."""
    written = {"difficulty": problem.difficulty, "thinking": thinking(problem)} if split == "train" else {}
    return {"id": name, "family": problem.family, "prompt": problem.prompt, "answer": problem.answer, **written}


def _draw(arguments: Arguments) -> Iterator[Problem]:
    if arguments.split == "train":
        return islice(problems("train", arguments.seed, arguments.families), arguments.count)
    drawn = draw_distinct("heldout", arguments.seed, arguments.count, arguments.families)
    if drawn.note:
        print(f"note: {drawn.note}", file=sys.stderr)
    return iter(drawn.problems)


def main() -> int:
    """Write the questions; returns the exit code: 0, or 2 for input that cannot be used."""
    try:
        arguments = read_flags(Arguments, None, "python -m curate.families", __doc__)
        unknown = next((name for name in arguments.families if name not in FAMILIES), None)
        refuse(
            (unknown is not None, f"family {unknown!r} does not exist; there are {', '.join(FAMILIES)}"),
            (arguments.count < 1, f"--count is {arguments.count}; give 1 or more"),
        )
        drawn = _draw(arguments)
    except (InputError, RanDry) as error:
        tell(error)
        return 2
    with arguments.out.open("wb") as out:
        for number, problem in enumerate(drawn):
            name = f"{arguments.split}-{arguments.seed}-{number}"
            out.write(json_line(line(problem, arguments.split, name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
