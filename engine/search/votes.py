"""Votes over answers, and when the rest of the samples need not be drawn.

An answer is a text, or None where a sample has none: that does not vote, and there is no class of such. `same` says
which answers are equal; classes are found by one pass, each named by its first answer, and a later class leads only
with strictly more.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from operator import eq

from engine.errors import InputError, is_number, shown

Same = Callable[[str, str], bool]


def totals(answers: Sequence[str | None], weights: Sequence[float], same: Same = eq) -> list[tuple[str, Fraction]]:
    """(name, exact sum of weights) of each class, in the order of their first answers.

    Raises InputError naming the index of a weight that is not finite, and where there is not one for each answer.
    """
    if len(answers) != len(weights):
        raise InputError(f"{len(weights)} weights for {len(answers)} answers; give one for each")
    for at, weight in enumerate(weights):
        if not math.isfinite(weight):
            raise InputError(f"weight {at} is {shown(weight)}; give a finite number")
    names, sums = list[str](), list[Fraction]()
    for answer, weight in zip(answers, weights, strict=True):
        if answer is None:
            continue
        at = next((at for at, name in enumerate(names) if same(name, answer)), len(names))
        if at == len(names):
            names.append(answer)
            sums.append(Fraction(0))
        sums[at] += Fraction(float(weight))
    return list(zip(names, sums, strict=True))


def counts(answers: Sequence[str | None], same: Same = eq) -> list[int]:
    """Votes of each class, in the order of their first answers."""
    return [int(total) for _, total in totals(answers, [1.0] * len(answers), same)]


def majority(answers: Sequence[str | None], same: Same = eq) -> str | None:
    """The answer with most votes, of equal ones the one named first; None where nothing votes."""
    return weighted(answers, [1.0] * len(answers), same)


def weighted(answers: Sequence[str | None], weights: Sequence[float], same: Same = eq) -> str | None:
    """The answer with most weight, which may be below 0; otherwise as `majority`. Raises InputError as `totals`."""
    found = totals(answers, weights, same)
    return max(found, key=lambda one: one[1])[0] if found else None


def best(answers: Sequence[str | None], scores: Sequence[float]) -> str | None:
    """Best of n: the answer with the highest score, of equal scores the earlier; NaN is as bad as -inf.

    None where nothing has an answer. Raises InputError where there is not one score for each answer.
    """
    if len(answers) != len(scores):
        raise InputError(f"{len(scores)} scores for {len(answers)} answers; give one for each")
    ranks = _worst_if_nan(scores)
    return max(
        ((rank, answer) for rank, answer in zip(ranks, answers, strict=True) if answer is not None),
        key=lambda one: one[0],
        default=(0.0, None),
    )[1]


def borda(scores: Sequence[float], power: float) -> list[float]:
    """Weights (N - rank) ** power for a vote; the best of N has rank 0, of equal scores the earlier, NaN is the worst.

    arXiv 2502.18581 (its code takes 0.5). Raises InputError for a power below 0 or beyond what floats can hold.
    """
    n = len(scores)
    if not is_number(power, 0, 700 / max(1.0, math.log(max(n, 1)))):
        raise InputError(f"power is {shown(power)} for {n} scores; give 0 (a plain vote) to about 10")
    ranks, weights = _worst_if_nan(scores), [0.0] * n
    for rank, at in enumerate(sorted(range(n), key=lambda at: -ranks[at])):
        weights[at] = float(n - rank) ** power
    return weights


def decided(answers: Sequence[str | None], outstanding: int, same: Same = eq) -> bool:
    """Whether no answers of `outstanding` more samples can change the majority: leader - runner-up > outstanding.

    Exact where `same` is an equivalence. Raises InputError for fewer than 0 outstanding.
    """
    if outstanding < 0:
        raise InputError(f"{outstanding} samples are outstanding; give 0 or more")
    first, second = _top_two(counts(answers, same))
    return first - second > outstanding


def adaptive_stop(counts: Sequence[int], threshold: float = 0.95) -> bool:
    """Adaptive-Consistency (arXiv 2305.11860): whether P(Beta(a + 1, b + 1) > 1/2) >= threshold, for the votes a and b
    of the two largest classes.

    That is P(Binomial(a + b + 1, 1/2) <= a), summed in whole numbers. Without rivals 4 votes do, against 1 to 5 votes
    6, 8, 9, 11, 12. Raises InputError for counts below 0 and thresholds outside 0 to 1.
    """
    if any(count < 0 for count in counts) or not is_number(threshold, 0, 1):
        raise InputError(
            f"counts are {shown(counts)} and threshold {shown(threshold)}; give counts from 0 and a chance from 0 to 1"
        )
    a, b = _top_two(counts)
    tosses = a + b + 1
    ways, term = 0, 1  # term = C(tosses, heads)
    for heads in range(a + 1):
        ways += term
        term = term * (tosses - heads) // (heads + 1)
    return ways >= Fraction(threshold) * 2**tosses


def unanimous_window(answers: Sequence[str | None], window: int, same: Same = eq) -> bool:
    """ESC (arXiv 2401.10480): whether all answers of one whole window agree; windows of `window` follow one another.

    A window in which a sample has no answer does not agree. The answer then is the majority of all. Raises InputError
    for a window below 1.
    """
    if window < 1:
        raise InputError(f"window is {window}; give at least 1 sample")
    starts = range(0, len(answers) - window + 1, window)
    return any(counts(answers[start : start + window], same) == [window] for start in starts)


def shortest_of(finished: Sequence[tuple[str | None, int]], m: int, same: Same = eq) -> str | None:
    """short-m@k (arXiv 2505.17813): the majority of the `m` samples that thought least, ties to the shortest thought.

    `finished` are (answer, thinking tokens); of equally long ones the earlier ends first. A sample without an answer
    takes its place and does not vote. Where fewer than `m` finished all vote. Raises InputError for an `m` below 1.
    """
    if m < 1:
        raise InputError(f"m is {m}; give at least 1 sample")
    return majority([answer for answer, _ in sorted(finished, key=lambda one: one[1])[:m]], same)


def _top_two(counts: Sequence[int]) -> tuple[int, int]:
    first, second = sorted([*counts, 0, 0], reverse=True)[:2]
    return first, second


def _worst_if_nan(scores: Sequence[float]) -> list[float]:
    return [-math.inf if math.isnan(score) else score for score in scores]
