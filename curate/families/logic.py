"""Small logic: the order of three runners from clues, by going through the six orders."""

import itertools
import re
from random import Random

from curate.families.problem import Problem, search_rounds

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ned", "Joe")
PLACES = ("first", "second", "third")
Clue = tuple[str, str | int]  # (name, later name) or (name, excluded place 0..2)


def holds(clue: Clue, order: tuple[str, ...]) -> bool:
    """Whether `clue` is true of `order`."""
    name, other = clue
    place = order.index(name)
    return place != other if isinstance(other, int) else place < order.index(other)


def said(clue: Clue) -> str:
    """The clue in words."""
    name, other = clue
    return f"{name} was not {PLACES[other]}" if isinstance(other, int) else f"{name} was before {other}"


def written(clue: Clue, order: tuple[str, ...]) -> str:
    """The check of one clue, such as "Bob second before Ann first no": each name with its place, then the verdict."""
    name, other = clue
    place, verdict = PLACES[order.index(name)], "ok" if holds(clue, order) else "no"
    if isinstance(other, int):
        return f"{name} {place} not {PLACES[other]} {verdict}"
    return f"{name} {place} before {other} {PLACES[order.index(other)]} {verdict}"


def make(rng: Random) -> Problem | None:
    """Three names and two or three clues that leave one order."""
    names = tuple(rng.sample(NAMES, 3))
    orders = list(itertools.permutations(names))
    truth = rng.choice(orders)
    clues: list[Clue] = [(a, b) for a, b in itertools.permutations(names, 2)] + [
        (a, k) for a in names for k in range(3)
    ]
    clues = rng.sample([c for c in clues if holds(c, truth)], rng.randint(2, 3))
    if [o for o in orders if all(holds(c, o) for c in clues)] != [truth]:
        return None
    tries = []
    for order in orders[: orders.index(truth) + 1]:
        checks = []
        for clue in clues:
            checks.append(written(clue, order))
            if not holds(clue, order):
                break
        places = " ".join(f"{name} {place}" for place, name in zip(PLACES, order, strict=True))
        tries.append((f"try {places}. {'. '.join(checks)}{' yes' if order == truth else ''}",))
    a, b, c = names
    answer = ", ".join(truth)
    return Problem(
        family="logic",
        key=f"{sorted(names)} {sorted(map(str, clues))}",
        prompt=f"Runners {a}, {b} and {c} ran a race. {' '.join(said(clue) + '.' for clue in clues)} "
        "In which order did they finish?",
        answer=answer,
        rounds=search_rounds((), tries, 2, answer),
        recheck=tries[-1][0],
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` names all three runners in an order that every clue allows."""
    names = re.match(r"Runners (\w+), (\w+) and (\w+) ran", prompt).groups()  # type: ignore[union-attr]
    order = [part.strip() for part in answer.split(",")]
    if sorted(order) != sorted(names):
        return False
    place = {name: i for i, name in enumerate(order)}
    before = all(place[x] < place[y] for x, y in re.findall(r"(\w+) was before (\w+)\.", prompt))
    apart = all(place[x] != PLACES.index(p) for x, p in re.findall(r"(\w+) was not (\w+)\.", prompt))
    return before and apart
