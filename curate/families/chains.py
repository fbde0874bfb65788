"""Chains of additions and subtractions. The first pass is hasty; a second pass by another route checks it.

The slip is deliberate and systematic: the hasty pass forgets the carry (or the borrow) of the last step. The second
pass moves by tens first and ones after, and finds it.
"""

import re
from random import Random

from curate.families.problem import Problem, Round

WORDS = {"+": "Add", "-": "Subtract"}


def hasty(a: int, op: str, b: int) -> int:
    """`a op b` digit by digit, with carries and borrows forgotten."""
    digits = []
    while a or b:
        digits.append((a % 10 + b % 10) % 10 if op == "+" else (a % 10 - b % 10) % 10)
        a, b = a // 10, b // 10
    return int("".join(map(str, reversed(digits))) or "0")


def make(rng: Random) -> Problem | None:
    """A chain of two or three steps that stays between 10 and 99."""
    value = start = rng.randint(10, 79)
    steps = []
    for _ in range(rng.randint(2, 3)):
        op, n = rng.choice("+-"), rng.randint(11, 39)
        result = value + n if op == "+" else value - n
        if not 10 <= result <= 99 or n % 10 == 0:
            return None
        steps.append((value, op, n, result))
        value = result
    slip = hasty(*steps[-1][:3])
    quick = [f"{WORDS[op]} {n}. {a}{op}{n}={r}" for a, op, n, r in (*steps[:-1], (*steps[-1][:3], slip))]
    opening = f"Start with {start}."
    careful = [opening]
    for a, op, n, r in steps:
        tens, ones = n // 10 * 10, n % 10
        middle = a + tens if op == "+" else a - tens
        if middle < 0:
            return None
        careful.append(f"{WORDS[op]} {n}. {a}{op}{tens}={middle} {middle}{op}{ones}={r}")
    careful.append(f"so {value}")
    return Problem(
        family="chains",
        key=f"{start} {[(op, n) for _, op, n, _ in steps]}",
        prompt="\n".join([opening, *(f"{WORDS[op]} {n}." for _, op, n, _ in steps), "What is the result?"]),
        answer=str(value),
        rounds=(Round((opening, *quick, f"so {slip}"), str(slip)), Round(tuple(careful), str(value), "by parts")),
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` is the number the instructions of the prompt lead to."""
    value = 0
    for verb, number in re.findall(r"(Start with|Add|Subtract) (\d+)", prompt):
        value = {"Start with": int(number), "Add": value + int(number), "Subtract": value - int(number)}[verb]
    return re.fullmatch(r"\d+", answer.strip()) is not None and int(answer) == value
