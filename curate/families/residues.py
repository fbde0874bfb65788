"""Number theory: the first term of a progression with a given remainder, found by walking along it."""

import itertools
import re
from random import Random

from curate.families.problem import Problem, search_rounds


def make(rng: Random) -> Problem | None:
    """A progression below 100 with a step of 3 to 9, and a remainder modulo 5 or a last digit."""
    start, step, modulus = rng.randint(1, 40), rng.randint(3, 9), rng.choice((5, 10))
    terms = [start + i * step for i in range(1, modulus + 1)]
    target = rng.randrange(modulus)
    hits = [i for i, t in enumerate(terms) if t % modulus == target]
    if len(hits) != 1 or terms[win := hits[0]] > 99:
        return None
    wanted = f"leaves {target}" if modulus == 5 else f"ends in {target}"
    tries = [
        (f"{t - step}+{step}={t} is {t % modulus} {wanted} {'yes' if i == win else 'no'}",)
        for i, t in enumerate(terms[: win + 1])
    ]
    after = " when divided by 5" if modulus == 5 else ""
    return Problem(
        family="residues",
        key=f"{start} {step} {modulus} {target}",
        prompt=f"Count up from {start} in steps of {step}. "
        f"Which is the first number after {start} that {wanted}{after}?",
        answer=str(terms[win]),
        rounds=search_rounds((), tries, 3, str(terms[win])),
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` is the first number of the walk with the wanted remainder."""
    start, step = map(int, re.findall(r"\d+", prompt)[:2])
    leaves = re.search(r"leaves (\d) when divided by (\d+)", prompt)
    rest, modulus = map(int, leaves.groups() if leaves else (prompt.split("ends in ")[1][0], 10))
    return answer.strip() == str(next(n for n in itertools.count(start + step, step) if n % modulus == rest))
