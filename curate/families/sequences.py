"""Sequences: find the next term by trying rules in a fixed order, from equal steps to growing ones."""

import re
from itertools import accumulate, pairwise
from random import Random

from curate.families.problem import Problem, search_rounds

KINDS = ("same", "double", "sum", "swap", "grow")


def terms_of(kind: str, rng: Random) -> list[int]:
    """Six terms under the rule `kind`; steps that have to be compared are of one digit."""
    a, d, e = rng.randint(1, 20), rng.randint(1, 9), rng.randint(1, 9)
    return {
        "same": [a + d * i for i in range(6)],
        "double": [a * 2**i for i in range(6)],
        "sum": [d, d + e, 2 * d + e, 3 * d + 2 * e, 5 * d + 3 * e, 8 * d + 5 * e],
        "swap": list(accumulate([a, d, e, d, e, d])),
        "grow": list(accumulate([a, *(d + e * i for i in range(5))])),
    }[kind]


def attempt(kind: str, t: list[int]) -> tuple[tuple[str, ...], int | None]:
    """The lines that try rule `kind` on the first five of `t`, up to what breaks it; the next term where it holds."""
    step = [after - before for before, after in pairwise(t)]
    rise = [after - before for before, after in pairwise(step)]
    said = [f"{t[i + 1]}-{t[i]}={step[i]}" for i in range(4)]
    last = step[3] + rise[0]
    seen, following = {
        "same": ([(said[i], step[i] == step[0]) for i in range(4)], f"{t[4]}+{step[0]}={t[4] + step[0]}"),
        "double": (
            [(f"{t[i]}+{t[i]}={2 * t[i]} is {t[i + 1]}", 2 * t[i] == t[i + 1]) for i in range(4)],
            f"{t[4]}+{t[4]}={2 * t[4]}",
        ),
        "sum": (
            [(f"{t[i]}+{t[i + 1]}={t[i] + t[i + 1]} is {t[i + 2]}", t[i] + t[i + 1] == t[i + 2]) for i in range(3)],
            f"{t[3]}+{t[4]}={t[3] + t[4]}",
        ),
        "swap": (
            [(f"{said[i]} and {said[i + 2]}", step[i] == step[i + 2]) for i in range(2)],
            f"{t[4]}+{step[0]}={t[4] + step[0]}",
        ),
        "grow": (
            [(" ".join(said), True)] + [(f"{step[i + 1]}-{step[i]}={rise[i]}", rise[i] == rise[0]) for i in range(3)],
            f"{step[3]}+{rise[0]}={last} {t[4]}+{last}={t[4] + last}",
        ),
    }[kind]
    breaks = next((i for i, (_, holds) in enumerate(seen) if not holds), None)
    if breaks is None:
        return (" ".join([kind, *(text for text, _ in seen), "yes"]), following), int(following.split("=")[-1])
    return (" ".join([kind, *(text for text, _ in seen[: breaks + 1]), "no"]),), None


def make(rng: Random) -> Problem | None:
    """A sequence of five terms whose rules that fit agree on the sixth."""
    kind = rng.choice(KINDS)
    t = terms_of(kind, rng)
    shown = t[:5]
    if t[5] > 99 or (kind == "grow" and shown[4] - shown[3] > 9):
        return None
    tries, found = zip(*(attempt(kind, shown) for kind in KINDS), strict=True)
    if len({*found} - {None}) != 1:
        return None
    first = next(i for i, term in enumerate(found) if term is not None)
    head, following = ", ".join(map(str, shown)), str(found[first])
    return Problem(
        family="sequences",
        key=head,
        prompt=f"What comes next: {head}?",
        answer=following,
        rounds=search_rounds((head,), tries[: first + 1], 2, following),
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` continues the sequence of the prompt under the rules that fit it."""
    a, b, c, d, e = map(int, re.findall(r"\d+", prompt))
    rules = (
        (b - a == c - b == d - c == e - d, e + (b - a)),
        (c - 2 * b + a == d - 2 * c + b == e - 2 * d + c, 3 * e - 3 * d + c),
        ((c, d, e) == (a + b, b + c, c + d), d + e),
        ((b, c, d, e) == (2 * a, 4 * a, 8 * a, 16 * a), 32 * a),
        ((b - a, c - b) == (d - c, e - d), e + (b - a)),
    )
    following = {term for fits, term in rules if fits}
    return re.fullmatch(r"\d+", answer.strip()) is not None and following == {int(answer)}
