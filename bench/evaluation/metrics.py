"""The paper's three metrics over the runs of one method on one task (section 3.2): Control, Scaling, Performance.

Scaling is printed there as a slope over tokens. Its table is reproduced with the base-2 logarithm of tokens and
accuracy in percent: percentage points per doubling of thinking.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

SPREAD_DOUBLINGS = 0.5
"""Pairs closer than this say more of noise than of scaling."""


@dataclass(frozen=True)
class Point:
    """One run: mean thinking tokens, accuracy in [0, 1], and what it was asked to keep to.

    `limit` is in tokens (None: nothing was asked); `asks_more`: the run was asked to think longer than that.
    """

    tokens: float
    accuracy: float
    limit: float | None = None
    asks_more: bool = False

    @property
    def kept(self) -> bool:
        """Whether the mean is on the asked side of the limit."""
        return self.limit is None or (self.tokens > self.limit) == self.asks_more


@dataclass(frozen=True)
class Scaling:
    """Percentage points per doubling: the mean over `pairs` pairs of runs; None where there is no such pair."""

    value: float | None
    pairs: int


def control(points: Sequence[Point]) -> float:
    """Share of the runs whose mean thinking tokens keep to what was asked. Raises ValueError for no runs."""
    if not points:
        raise ValueError("no runs; Control is a share of them")
    return sum(point.kept for point in points) / len(points)


def scaling(points: Sequence[Point], least_doublings: float = 0.0) -> Scaling:
    """Mean slope over all pairs of runs at least `least_doublings` apart: 100 x accuracy over log2 of tokens."""
    pairs = combinations((point for point in points if point.tokens > 0), 2)
    rises = [(100 * (b.accuracy - a.accuracy), math.log2(b.tokens / a.tokens)) for a, b in pairs]
    slopes = [rise / apart for rise, apart in rises if apart != 0 and abs(apart) >= least_doublings]
    return Scaling(sum(slopes) / len(slopes) if slopes else None, len(slopes))


def performance(points: Sequence[Point]) -> float:
    """The best accuracy of all runs: the largest of noisy values, so biased upward; see `performance_interval`."""
    return max(point.accuracy for point in points)


def at_longest(points: Sequence[Point]) -> float:
    """Accuracy of the run that thought most, which no choice among noisy values has biased."""
    return max(points, key=lambda point: point.tokens).accuracy


@dataclass(frozen=True)
class Spread:
    """95 % bootstrap intervals over problems of the two metrics that are estimates; None where undefined."""

    scaling: tuple[float, float] | None
    performance: tuple[float, float]
    performance_bias: float
    """Mean over the draws of the maximum, minus the observed maximum."""


def spread(accuracy: np.ndarray, tokens: np.ndarray, draws: int = 2000, seed: int = 0) -> Spread:
    """Resample problems. `accuracy`, `tokens`: [runs, problems] float64, per-problem means over samples.

    Scaling is over pairs `SPREAD_DOUBLINGS` apart in the observed means; the same pairs are used in every draw.
    """
    runs, problems = accuracy.shape
    random = np.random.default_rng(seed)
    observed = tokens.mean(axis=1)
    pairs = [
        (a, b)
        for a, b in combinations(range(runs), 2)
        if min(observed[a], observed[b]) > 0 and abs(math.log2(observed[b] / observed[a])) >= SPREAD_DOUBLINGS
    ]
    best, slopes = np.empty(draws), np.zeros(draws)
    for draw in range(draws):
        chosen = random.integers(0, problems, problems)
        y, x = accuracy[:, chosen].mean(axis=1), np.maximum(tokens[:, chosen].mean(axis=1), 1e-9)
        best[draw] = y.max()
        apart = np.log2(x)
        # a pair that falls together in a draw has no slope there; half a doubling apart, that is a rare draw
        found = [100 * (y[b] - y[a]) / (apart[b] - apart[a]) for a, b in pairs if apart[b] != apart[a]]
        slopes[draw] = sum(found) / len(found) if found else 0.0
    low, high = np.quantile(best, [0.025, 0.975])
    return Spread(
        scaling=tuple(np.quantile(slopes, [0.025, 0.975]).tolist()) if pairs else None,
        performance=(float(low), float(high)),
        performance_bias=float(best.mean() - accuracy.mean(axis=1).max()),
    )
