"""What n samples of a problem tell of k: pass@k, majority and best-of-k, each as the expectation over random k-subsets.

No estimate depends on the order of the samples, so none favours the first ones.
"""

import math
from collections import Counter
from collections.abc import Sequence


def pass_at_k(right: int, n: int, k: int) -> float:
    """Chance that a random k-subset of n samples holds a right one: 1 - C(n - c, k) / C(n, k) (Chen 2021).

    Raises ValueError unless 0 <= right <= n and 1 <= k <= n.
    """
    _check(right, n, k)
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def majority_at_k(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Chance that the most frequent answer of a random k-subset is right; answers that tie share it equally.

    `votes[i]` is the answer of sample i in one spelling, None where it has none: it takes a place and does not vote.
    Exact: for each right answer and number of votes the subsets in which nothing else has more are counted by a
    product of polynomials. Raises ValueError where one answer is right in one sample and wrong in another.
    """
    n = len(votes)
    _check(0, n, k)
    counts = Counter(vote for vote in votes if vote is not None)
    right: dict[str, bool] = {}
    for vote, verdict in zip(votes, correct, strict=True):
        if vote is not None and right.setdefault(vote, verdict) != verdict:
            raise ValueError(f"answer {vote!r} is right in one sample and wrong in another; grade by the answer")
    silent = n - sum(counts.values())
    wins = (
        math.comb(count, top) * _shared_wins([c for a, c in counts.items() if a != answer], silent, k - top, top)
        for answer, count in counts.items()
        if right[answer]
        for top in range(1, min(count, k) + 1)
    )
    return sum(wins) / math.comb(n, k)


def _shared_wins(others: Sequence[int], silent: int, places: int, top: int) -> float:
    """Sum over the ways to fill `places` with at most `top` votes for each other answer, each divided by 1 + ties."""
    ways = Counter({(0, 0): 1})
    for count in others:
        grown = Counter[tuple[int, int]]()
        for (used, ties), number in ways.items():
            for votes in range(min(count, top, places - used) + 1):
                grown[used + votes, ties + (votes == top)] += number * math.comb(count, votes)
        ways = grown
    return sum(number * math.comb(silent, places - used) / (1 + ties) for (used, ties), number in ways.items())


def best_of_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    """Chance that the highest-scored of a random k-subset is right; equal scores share it equally."""
    n = len(scores)
    _check(0, n, k)
    total, below = 0.0, 0
    for score in sorted(set(scores)):
        tied = [c for s, c in zip(scores, correct, strict=True) if s == score]
        subsets = math.comb(below + len(tied), k) - math.comb(below, k)
        total += subsets * sum(tied) / len(tied)
        below += len(tied)
    return total / math.comb(n, k)


def expected_max(values: Sequence[float], k: int) -> float:
    """Mean of the largest of a random k-subset: of token counts, the longest path."""
    ordered, n = sorted(values), len(values)
    _check(0, n, k)
    return sum(value * math.comb(rank, k - 1) for rank, value in enumerate(ordered)) / math.comb(n, k)


def first_k_majority(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> bool:
    """The original's maj@k: the most frequent of the first k, ties to the first seen. For its columns only."""
    counts = Counter(vote for vote in votes[:k] if vote is not None)
    # of equal counts the one seen first
    return bool(counts) and correct[votes.index(counts.most_common(1)[0][0])]


def _check(right: int, n: int, k: int) -> None:
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"{right} right of {n} samples, k is {k}; give 0 <= right <= n and 1 <= k <= n")
