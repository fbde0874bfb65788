"""Intervals and paired tests for right answers: of counts, and of problems with several samples each."""

import math
from collections.abc import Sequence

import numpy as np

BOOTSTRAP_DRAWS = 10_000
"""As the paper's Table 2."""
_EXACT_FLIPS = 12
"""Differences up to which the permutation test counts every flip of signs."""


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927): bounds in [0, 1]. `z` is the normal quantile, 1.96 for 95 %.

    Raises ValueError unless 0 <= right <= count and count > 0.
    """
    if not 0 <= right <= count or count < 1:
        raise ValueError(f"{right} right of {count}; give 0 <= right <= count and count >= 1")
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Exactly 0 and 1 at the ends, where rounding would leave the share itself outside.
    return (0.0 if right == 0 else centre - half), (1.0 if right == count else centre + half)


def discordant(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    """(gained, lost): questions right only after, and only before. Raises ValueError where the lengths differ."""
    pairs = list(zip(before, after, strict=True))
    return sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)


def sign_test(gained: int, lost: int) -> float:
    """Exact one-sided p-value (McNemar 1947): chance of at least `lost` losses among the changes if both are as likely.

    Small means that accuracy fell; swap the arguments to ask whether it rose. 1.0 where nothing changed.
    """
    changes = gained + lost
    return sum(math.comb(changes, k) for k in range(lost, changes + 1)) / 2**changes


def bootstrap(
    values: Sequence[float], draws: int = BOOTSTRAP_DRAWS, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over clusters (Efron 1979): `values` are one per problem, its mean over samples.

    Problems are drawn with replacement, so the interval speaks of other problems of the same kind. Give differences
    for a paired interval. The same seed gives the same interval. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to resample; give at least one problem")
    array, random = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [  # in parts: draws x problems would not fit for many problems
        array[random.integers(0, len(array), (min(1000, draws - start), len(array)))].mean(axis=1)
        for start in range(0, draws, 1000)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sampling_interval(samples: Sequence[Sequence[float]], z: float = 1.959964) -> tuple[float, float] | None:
    """Normal interval of the mean of per-problem means with the problems fixed: would this model do so again on these?

    `samples[i]` are the outcomes of problem i; None where a problem has fewer than two, which say nothing of the noise.
    The variance is the sum over problems of s_i^2 / n_i, over the number of problems squared.
    """
    if not samples or any(len(outcomes) < 2 for outcomes in samples):
        return None
    means = [sum(outcomes) / len(outcomes) for outcomes in samples]
    variance = sum(float(np.var(outcomes, ddof=1)) / len(outcomes) for outcomes in samples)
    centre, half = sum(means) / len(means), z * math.sqrt(variance) / len(means)
    return centre - half, centre + half


def permutation_test(differences: Sequence[float], draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value that the mean of paired differences is zero, by flipping their signs (Fisher 1935).

    Exact for up to twelve differences that are not zero; otherwise `draws` flips, with the observed one among them.
    """
    array = np.asarray([d for d in differences if d != 0], dtype=np.float64)
    if not len(array):
        return 1.0
    observed = abs(array.sum()) - 1e-12  # sums of the same numbers in another order differ in their last bit
    if len(array) <= _EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2 ** len(array))[:, None] >> np.arange(len(array))) & 1)
        return float(np.mean(np.abs(signs @ array) >= observed))
    signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, (draws, len(array)), dtype=np.int8)
    return float((np.sum(np.abs(signs @ array) >= observed) + 1) / (draws + 1))
