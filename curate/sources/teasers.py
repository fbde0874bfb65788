"""s1-teasers in kind: puzzles as they are set in interviews for quantitative trading, with solutions and answers."""

import itertools
import math
from fractions import Fraction
from random import Random
from typing import ClassVar

from curate.sources.base import Count, Draft, Generated, Info, Kind, latex


def _eggs(rng: Random) -> Draft:
    floors = rng.randint(30, 400)
    answer = math.ceil((math.sqrt(8 * floors + 1) - 1) / 2)
    return Draft(
        f"You have two identical eggs and a building of {floors} floors. An egg breaks exactly when it is dropped from "
        "some unknown floor or above; it may also survive all floors. How many drops do you need in the worst case to "
        "find that floor?",
        f"With $k$ drops and two eggs at most $k(k+1)/2$ floors can be told apart: go up by $k$, then "
        f"$k-1$, and so on. "
        f"The least $k$ with $k(k+1)/2 \\ge {floors}$ is \\boxed{{{answer}}}.",
        str(answer),
        "number",
        meta={"kind": "two eggs"},
    )


def _bottles(rng: Random) -> Draft:
    bottles = rng.randint(20, 5000)
    answer = (bottles - 1).bit_length()
    return Draft(
        f"One of {bottles} bottles is poisoned. A drop of it makes a test strip change colour after a day; "
        f"strips can be "
        "given drops of many bottles. What is the least number of strips that find the bottle within one day for sure?",
        f"Each strip answers one bit, so $n$ strips tell $2^n$ bottles apart, by the digits of the bottle's number in "
        f"base two. The least $n$ with $2^n \\ge {bottles}$ is \\boxed{{{answer}}}.",
        str(answer),
        "number",
        meta={"kind": "poisoned bottle"},
    )


def _weighing(rng: Random) -> Draft:
    coins = rng.randint(10, 2000)
    answer = next(n for n in itertools.count() if 3**n >= coins)
    return Draft(
        f"Among {coins} coins one is heavier than the others, which are all alike. How many weighings on a "
        f"balance with "
        "two pans are needed in the worst case to find it?",
        f"A weighing has three outcomes, so $n$ of them single out one of at most $3^n$ coins, and "
        f"splitting into thirds "
        f"reaches that. The least $n$ with $3^n \\ge {coins}$ is \\boxed{{{answer}}}.",
        str(answer),
        "number",
        meta={"kind": "heavy coin"},
    )


def _rerolls(rng: Random) -> Draft:
    sides, rolls = rng.randint(4, 12), rng.randint(2, 4)
    steps = [Fraction(sides + 1, 2)]
    while len(steps) < rolls:
        steps.append(sum((max(Fraction(face), steps[-1]) for face in range(1, sides + 1)), start=Fraction(0)) / sides)
    value = steps[-1]
    return Draft(
        f"You roll a fair die with {sides} sides (1 to {sides}) up to {rolls} times. After each roll you "
        f"may stop and are "
        "paid the number shown, in dollars; the last roll counts in any case. What is the value of the game?",
        "Work backwards: with one roll left it is worth "
        + ", with one more ".join(f"${latex(s)}$" for s in steps)
        + f", as one stops exactly when the roll beats what is left. The value is $\\boxed{{{latex(value)}}}$.",
        latex(value),
        "latex",
        meta={"kind": "re-rolls"},
    )


def _bridge(rng: Random) -> Draft:
    a, b, c, d = sorted(rng.sample(range(1, 25), 4))
    answer = min(a + 3 * b + d, 2 * a + b + c + d)
    return Draft(
        f"Four people need {a}, {b}, {c} and {d} minutes to cross a bridge at night. At most two may be on "
        f"it at once, a "
        "pair walks at the slower one's pace, and they have one torch, without which nobody walks. What "
        "is the shortest "
        "time in minutes for all to cross?",
        f"Either the fastest leads the others over one by one, "
        f"$2\\cdot{a}+{b}+{c}+{d}={2 * a + b + c + d}$, or the two "
        f"slowest cross together while the two fastest carry the torch, "
        f"${a}+3\\cdot{b}+{d}={a + 3 * b + d}$. The shorter "
        f"time is \\boxed{{{answer}}}.",
        str(answer),
        "number",
        meta={"kind": "bridge"},
    )


class Teasers(Generated, frozen=True, kw_only=True, tag="teasers"):
    """`rows` different puzzles, kinds in turn."""

    info: ClassVar[Info] = Info("teasers", "", "Apache-2.0", (), 23)
    kinds: ClassVar[tuple[Kind, ...]] = (_eggs, _bottles, _weighing, _rerolls, _bridge)
    rows: Count = 23
