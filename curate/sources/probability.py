"""s1-prob in kind: calculations and proofs in probability, each with a written solution and, but for proofs, an exact
answer. The examination problems that s1 collected are their authors'; these are made from scratch."""

import math
from fractions import Fraction
from random import Random
from typing import ClassVar

from curate.sources.base import Count, Draft, Generated, Info, Kind, latex


def _ruin(rng: Random) -> Draft:
    top, odds = rng.randint(4, 9), Fraction(rng.randint(1, 5), rng.randint(1, 5))
    start = rng.randint(1, top - 1)
    r = 1 / odds
    answer = Fraction(start, top) if r == 1 else (1 - r**start) / (1 - r**top)
    return Draft(
        f"A gambler starts with {start} dollars and bets one dollar at a time, winning each bet independently with "
        f"probability ${latex(odds / (1 + odds))}$. The game ends at 0 or at {top} dollars. Compute the probability "
        f"that it ends at {top} dollars.",
        f"Let $r = q/p = {latex(r)}$. With $h(0)=0$ and $h({top})=1$ the equation $h(k) = p\\,h(k+1) + q\\,h(k-1)$ has "
        + (f"the solution $h(k)=k/{top}$" if r == 1 else f"the solution $h(k) = (1-r^k)/(1-r^{{{top}}})$")
        + f". At $k={start}$ this is $\\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "gambler's ruin"},
    )


def _ballot(rng: Random) -> Draft:
    b = rng.randint(2, 30)
    a = b + rng.randint(1, 40)
    answer = Fraction(a - b, a + b)
    return Draft(
        f"In an election candidate A receives {a} votes and candidate B {b}. The votes are counted in uniformly random "
        "order. Compute the probability that A is strictly ahead throughout the count.",
        f"By the cycle lemma exactly $a-b$ of the $a+b$ cyclic shifts of any order keep A ahead, so the probability is "
        f"$(a-b)/(a+b) = \\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "ballot"},
    )


def _urn(rng: Random) -> Draft:
    red, blue, draws = rng.randint(1, 5), rng.randint(1, 5), rng.randint(2, 4)
    answer = math.prod((Fraction(red + i, red + blue + i) for i in range(draws)), start=Fraction(1))
    return Draft(
        f"A Polya urn holds {red} red and {blue} blue balls. Each drawn ball is put back together with one more of its "
        f"colour. Compute the probability that the first {draws} draws are all red.",
        "After $i$ red draws the urn holds $r+i$ red balls among $r+b+i$. The product of "
        + ", ".join(f"${latex(Fraction(red + i, red + blue + i))}$" for i in range(draws))
        + f" is $\\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "Polya urn"},
    )


def _order(rng: Random) -> Draft:
    n = rng.randint(3, 12)
    k = rng.randint(1, n)
    answer = Fraction(k * (n + 1 - k), (n + 1) ** 2 * (n + 2))
    return Draft(
        f"Let $U_1,\\dots,U_{{{n}}}$ be independent and uniform on $[0,1]$. Compute the variance of the "
        f"order statistic "
        f"$U_{{({k})}}$, the one of rank {k} from below.",
        f"$U_{{({k})}}$ has the Beta distribution with parameters ${k}$ and ${n + 1 - k}$, whose variance "
        f"$ab/((a+b)^2(a+b+1))$ is $\\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "order statistics"},
    )


def _coupons(rng: Random) -> Draft:
    n = rng.randint(4, 14)
    have = rng.randint(0, n - 2)
    answer = n * sum((Fraction(1, i) for i in range(1, n - have + 1)), start=Fraction(0))
    return Draft(
        f"Every box of a cereal holds one of {n} coupons, each equally likely. A collector already owns "
        f"{have} different "
        "ones. Compute the expected number of further boxes until the collection is complete.",
        f"With $i$ coupons missing a box helps with probability $i/{n}$, so the waits add up to ${n}\\sum_{{i=1}}^{{"
        f"{n - have}}} 1/i = \\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "coupon collector"},
    )


def _pattern(rng: Random) -> Draft:
    pattern = "".join(rng.choice("HT") for _ in range(rng.randint(3, 6)))
    borders = [k for k in range(1, len(pattern) + 1) if pattern[:k] == pattern[-k:]]
    answer = sum(2**k for k in borders)
    return Draft(
        f"A fair coin is tossed until the pattern {pattern} appears in consecutive tosses. Compute the expected number "
        "of tosses.",
        "By Conway's martingale of fair bets the expectation is the sum of $2^k$ over all lengths $k$ at which the "
        f"pattern's beginning equals its end. Here $k$ is {', '.join(map(str, borders))}, and the sum is "
        f"$\\boxed{{{answer}}}$.",
        str(answer),
        "number",
        meta={"kind": "pattern waiting time"},
    )


def _poisson(rng: Random) -> Draft:
    n, t = rng.randint(3, 8), Fraction(rng.randint(1, 4), rng.randint(5, 9))
    k = rng.randint(0, n)
    answer = math.comb(n, k) * t**k * (1 - t) ** (n - k)
    return Draft(
        f"Customers arrive by a Poisson process. Given that exactly {n} arrive during the first hour, compute the "
        f"probability that exactly {k} of them arrive during its first ${latex(t)}$.",
        f"Given their number the arrival times are independent and uniform, so the count is binomial: "
        f"$\\binom{{{n}}}{{{k}}}({latex(t)})^{{{k}}}({latex(1 - t)})^{{{n - k}}} = \\boxed{{{latex(answer)}}}$.",
        latex(answer),
        "latex",
        meta={"kind": "Poisson process"},
    )


def _proof(rng: Random) -> Draft:
    m = rng.randint(1, 40)
    question, solution = rng.choice(
        (
            (
                f"Let $X \\ge 0$ be a random variable with $E X^{{{m}}} < \\infty$. Prove that "
                f"$t^{{{m}}} P(X > t) \\to 0$ as "
                "$t \\to \\infty$.",
                f"$t^{{{m}}} 1_{{X>t}} \\le X^{{{m}}} 1_{{X>t}}$, which tends to 0 almost surely and is dominated by "
                f"$X^{{{m}}}$. Dominated convergence gives the claim.",
            ),
            (
                f"Let $X_1, X_2, \\dots$ be identically distributed with $E|X_1|^{{{m}}} < \\infty$, not necessarily "
                f"independent. Prove that $X_n / n^{{1/{m}}} \\to 0$ almost surely.",
                f"For $\\varepsilon > 0$, $\\sum_n P(|X_n|^{{{m}}} > \\varepsilon n) \\le "
                f"E|X_1|^{{{m}}}/\\varepsilon < \\infty$, "
                "and Borel and Cantelli's lemma gives the claim.",
            ),
            (
                f"Let $S_n$ be simple symmetric random walk and $T$ the first time that $|S_n| = {m}$. Prove that "
                f"$E T = {m * m}$.",
                f"$S_n^2 - n$ is a martingale, and $T$ has exponential tails, so $E T = E S_T^2 = {m * m}$.",
            ),
        )
    )
    return Draft(question, solution, meta={"kind": "proof"})


class Probability(Generated, frozen=True, kw_only=True, tag="probability"):
    """`rows` different problems, kinds in turn."""

    info: ClassVar[Info] = Info("probability", "", "Apache-2.0", (), 182)
    kinds: ClassVar[tuple[Kind, ...]] = (_ruin, _ballot, _urn, _order, _coupons, _pattern, _poisson, _proof)
    rows: Count = 182
