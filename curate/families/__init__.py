"""Procedural question families with written reasoning and checkers that need the question alone."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from curate.families import chains, clocks, countdown, logic, residues, sequences
from curate.families.problem import NOT_FOUND, Problem, Round

__all__ = ["FAMILIES", "NOT_FOUND", "Family", "Problem", "Round", "check", "problems"]


@dataclass(frozen=True)
class Family:
    """A source of problems: `make` draws one (or None, to draw again); `check` judges an answer from the prompt alone;
    `difficulty` weighs how many "Wait"s its questions need (index = number of "Wait"s)."""

    make: Callable[[Random], Problem | None]
    check: Callable[[str, str], bool]
    difficulty: tuple[float, ...]


FAMILIES = {
    "countdown3": Family(countdown.three, countdown.check, (0.66, 0.13, 0.08, 0.08, 0.05)),
    "countdown4": Family(countdown.four, countdown.check, (0.66, 0.14, 0.10, 0.10)),
    "chains": Family(chains.make, chains.check, (0.68, 0.32)),
    "residues": Family(residues.make, residues.check, (0.66, 0.18, 0.10, 0.06)),
    "sequences": Family(sequences.make, sequences.check, (0.68, 0.20, 0.12)),
    "clocks": Family(clocks.clock, clocks.check_clock, (0.68, 0.32)),
    "weekdays": Family(clocks.weekday, clocks.check_weekday, (0.68, 0.20, 0.12)),
    "logic": Family(logic.make, logic.check, (0.68, 0.20, 0.12)),
}


def check(family: str, prompt: str, answer_text: str) -> bool:
    """Whether `answer_text` ("Answer: 12", "Final Answer: 12" or "12") answers `prompt`, judged without a reference.

    Raises:
        KeyError: `family` is not a key of `FAMILIES`.
    """
    return FAMILIES[family].check(prompt, re.sub(r"^\s*(Final )?Answer:\s*", "", answer_text).strip())


def drawn(family: str, split: str, difficulty: int, rng: Random) -> Iterator[Problem]:
    """Problems of one family, side and difficulty without end, repeats among them."""
    made = (FAMILIES[family].make(rng) for _ in itertools.count())
    return (p for p in made if p is not None and p.split == split and p.difficulty == difficulty)


def problems(
    split: str, seed: int, families: tuple[str, ...] = tuple(FAMILIES), even: float = 0.0
) -> Iterator[Problem]:
    """Problems without end, families in turn, difficulty drawn by each family's weights.

    Args:
        split: "train" or "heldout"; problems of the other side are passed over.
        seed: what is drawn; it never moves a question to the other side.
        families: names of the families to take turns; a name may come more than once.
        even: share of the problems, 0 to 1, whose difficulty is drawn with equal weights instead.
    """
    rng = Random(f"{split} {seed}")
    while True:
        for name in families:
            weights = FAMILIES[name].difficulty
            wanted = rng.choices(range(len(weights)), None if even and rng.random() < even else weights)[0]
            yield next(drawn(name, split, wanted, rng))
