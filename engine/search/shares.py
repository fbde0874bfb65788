"""How the width of a step is shared among the branches that are open, by their scores: REBASE's rules.

The weight of a branch is exp((score - best) / temperature) as a float64; everything after that is exact, so nothing
depends on the order of summation and a common shift of the scores that floats can hold changes nothing.

Scores may be anything: NaN and -inf get nothing while any score is finite, +inf counts as the largest finite score, and
where no score is finite all count the same.
"""

import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from engine.errors import InputError, shown

Rule = Literal["paper", "code", "remainder"]
"""`paper` rounds each share, `code` is what its authors ran, `remainder` has the least error of those that add up."""

_SCALE = 1 << 1074  # the smallest float64 above 0 is 1 / _SCALE, so every weight times this is whole


def share(scores: Sequence[float], width: int, temperature: float, rule: Rule) -> list[int]:
    """The widths by the rule of that name. Raises InputError for another name, and where the rules do."""
    match rule:
        case "paper":
            return by_paper(scores, width, temperature)
        case "code":
            return by_code(scores, width, temperature)
        case "remainder":
            return by_remainder(scores, width, temperature)
    raise InputError(f"rule is {shown(rule)}; give paper, code or remainder")


def by_paper(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """W_j = round(width * weight_j / sum of weights), arXiv 2408.00724, 3.1.2: one width for each of `scores`.

    Halves go to the even number, on which the paper says nothing. The sum may miss `width` either way: more than
    2 * width equal scores all get 0. Raises InputError for no scores, a width below 1, a temperature not above 0.
    """
    weights = _weights(scores, width, temperature)
    total = sum(weights)
    return [round(Fraction(width * weight, total)) for weight in weights]


def by_code(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """The published code's rule: from the best branch down, of what is left the share among those left, rounded up.

    The widths of all `scores` sum to `width` and never rise from a better branch to a worse one. Of equal scores the
    later comes first (an ascending stable sort, reversed). The original computes in float32 with weights that are not
    shifted: there a quotient just above a whole number rounds up once more, so that some layers get one too many; it
    overflows at temperatures near 0.011 and fails on NaN. Raises InputError as `by_paper`.
    """
    weights = _weights(scores, width, temperature)
    keys = _finite(scores)
    widths, left, total = [0] * len(weights), width, sum(weights)
    for at in sorted(range(len(weights)), key=keys.__getitem__)[::-1]:
        if not left:
            break
        widths[at] = -(-left * weights[at] // total)
        left -= widths[at]
        total -= weights[at]
    return widths


def by_remainder(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """Each share rounded down; what is left goes, one each, to the largest remainders, of equal ones to the earlier.

    The widths of all `scores` sum to `width`, each within 1 of its share. Raises InputError as `by_paper`.
    """
    weights = _weights(scores, width, temperature)
    total = sum(weights)
    widths, remainders = map(list, zip(*(divmod(width * weight, total) for weight in weights), strict=True))
    for at in sorted(range(len(widths)), key=lambda at: -remainders[at])[: width - sum(widths)]:
        widths[at] += 1
    return widths


def _finite(scores: Sequence[float]) -> list[float]:
    """Without NaN and +inf: what takes no share is -inf, unless nothing is finite."""
    best = max((score for score in scores if math.isfinite(score)), default=None)
    if best is None:
        return [0.0] * len(scores)
    return [-math.inf if math.isnan(score) else float(min(score, best)) for score in scores]


def _weights(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """Whole numbers in the ratio of the weights; the best has _SCALE."""
    if not len(scores) or width < 1:
        raise InputError(f"width {shown(width)} among {len(scores)} scores; give at least 1 of each")
    if not temperature > 0:
        raise InputError(f"temperature is {shown(temperature)}; give a number above 0, a small one to take the best")
    finite = _finite(scores)
    best = max(finite)
    weights = []
    for score in finite:
        # Scores whose difference overflows are finite, and stay so: at an infinite temperature they share equally.
        below = -math.inf if score == -math.inf else max(score - best, -sys.float_info.max) / temperature
        numerator, denominator = math.exp(below).as_integer_ratio()
        weights.append(numerator * (_SCALE // denominator))
    return weights
