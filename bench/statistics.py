"""Intervals and paired tests for counts of right answers."""

import math
from collections.abc import Sequence


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
