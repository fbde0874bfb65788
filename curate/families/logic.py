"""Small logic: the order of three runners from clues, by going through the six orders.

The order that is tried stands again behind every clue: what is compared is next to each other.
"""

import re
from collections.abc import Sequence
from random import Random

from curate.families.problem import Problem, search_rounds

NAMES = (
    "Ann",
    "Bob",
    "Cid",
    "Dan",
    "Eve",
    "Fay",
    "Gus",
    "Hal",
    "Ida",
    "Joe",
    "Kim",
    "Lou",
    "Max",
    "Ned",
    "Pam",
    "Sam",
)
Clue = tuple[str, str]  # (name, later name)


def holds(clue: Clue, order: Sequence[str]) -> bool:
    """Whether `clue` is true of `order`."""
    return order.index(clue[0]) < order.index(clue[1])


def said(clue: Clue) -> str:
    """The clue in words."""
    return f"{clue[0]} was before {clue[1]}"


def make(rng: Random) -> Problem | None:
    """Three names and two clues that leave one order."""
    a, b, c = rng.sample(NAMES, 3)
    # Each is made from the one before it: swap the last two, turn round, swap the last two, ...
    orders = [(a, b, c), (a, c, b), (b, c, a), (b, a, c), (c, a, b), (c, b, a)]
    truth = rng.choice(orders)
    clues = rng.sample([truth[:2], truth[1:]], 2)
    tries = []
    for order in orders[: orders.index(truth) + 1]:
        lines = []
        for clue in clues:
            lines.append(f"see {said(clue)} in {' '.join(order)} {'yes' if holds(clue, order) else 'no'}")
            if not holds(clue, order):
                break
        tries.append(tuple(lines))
    answer = ", ".join(truth)
    return Problem(
        family="logic",
        key=f"{sorted((a, b, c))} {sorted(map(str, clues))}",
        prompt=f"Runners {a}, {b} and {c} ran a race. {' '.join(said(clue) + '.' for clue in clues)} "
        "In which order did they finish?",
        answer=answer,
        rounds=search_rounds((), tries, 2, answer),
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` names all three runners in an order that every clue allows."""
    names = re.match(r"Runners (\w+), (\w+) and (\w+) ran", prompt).groups()  # type: ignore[union-attr]
    order = [part.strip() for part in answer.split(",")]
    clues = re.findall(r"(\w+) was before (\w+)\.", prompt)
    return sorted(order) == sorted(names) and all(holds(clue, order) for clue in clues)
