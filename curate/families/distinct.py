"""Distinct questions: what a figure is measured over. Training draws with repeats, from `curate.families.problems`."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from curate.families import FAMILIES, Problem, drawn

REPEATS = 100
"""Questions in a row that are known already, of one family and difficulty, until it counts as run dry."""


class RanDry(ValueError):
    """There are fewer distinct questions than were asked for."""


@dataclass(frozen=True)
class Drawn:
    """`problems` in the order drawn, no two of them the same task in other words or another order.

    `dry`: (family, difficulty) pairs that had no further question, in the order in which they ran dry; other families
    took their turns from then on.
    """

    problems: tuple[Problem, ...]
    dry: tuple[tuple[str, int], ...]

    @property
    def note(self) -> str:
        """Which families ran dry and how many questions each gave, in words; empty where none did."""
        if not self.dry:
            return ""
        given = {name: [p.difficulty for p in self.problems if p.family == name] for name, _ in self.dry}
        what = [f"{name} (gave {given[name].count(waits)} that need {waits} Waits)" for name, waits in self.dry]
        return f"no further distinct questions in {', '.join(what)}; other families gave as hard ones instead"


@lru_cache(maxsize=4)  # running, grading and reporting an evaluation all ask for the same set
def draw_distinct(split: str, seed: int, count: int, families: tuple[str, ...] = tuple(FAMILIES)) -> Drawn:
    """`count` distinct problems: families in turn, difficulty drawn by each family's weights.

    Where a family has no new question of the difficulty drawn, another family that has one gives it, so the mix of
    difficulties stays; where no family has one, the turn is passed over. A larger count begins with a smaller
    count's problems.

    Args:
        split: "train" or "heldout"; problems of the other side are passed over.
        seed: what is drawn, and which family stands in for one that ran dry.
        families: names of the families to take turns.

    Raises RanDry where `families` have fewer.
    """
    rng = Random(f"{split} {seed}")
    found: list[Problem] = []
    keys: set[tuple[str, str]] = set()
    dry: dict[tuple[str, int], None] = {}
    everything = {(name, level) for name in families for level in range(len(FAMILIES[name].difficulty))}
    for turn in itertools.cycle(families):
        if len(found) == count:
            break
        if everything <= dry.keys():
            raise RanDry(
                f"{', '.join(dict.fromkeys(families))}: {len(found)} distinct {split} questions were found "
                f"and {count} are asked for; lower the count or add families"
            )
        weights = FAMILIES[turn].difficulty
        wanted = rng.choices(range(len(weights)), weights)[0]
        name: str | None = turn
        while name is not None:
            tries = 0 if (name, wanted) in dry else REPEATS
            fitting = itertools.islice(drawn(name, split, wanted, rng), tries)
            problem = next((p for p in fitting if (name, p.key) not in keys), None)
            if problem is not None:
                keys.add((problem.family, problem.key))
                found.append(problem)
                break
            dry[name, wanted] = None
            others = sorted(n for n, level in everything - dry.keys() if level == wanted)
            name = rng.choice(others) if others else None
    return Drawn(tuple(found), tuple(dry))
