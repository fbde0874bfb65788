"""DeepConf (arXiv 2508.15260): how sure a trace was, from the log-probabilities of its best tokens, and votes by it.

All confidences are in nats per token; higher is surer. A trace is an array [tokens] of them, by `token_confidence`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import eq

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError, is_number, shown
from engine.request import Logprob
from engine.search.votes import Same, totals, weighted

WINDOW = 2048
"""Tokens of a group."""

Trace = NDArray[np.float64]


def token_confidence(logprobs: Sequence[Logprob]) -> Trace:
    """C_t = -mean log p of the top k at each position, [tokens]: exactly those of `Logprob.top` (the paper takes 20),
    whether or not the token that was drawn is among them.

    Raises InputError naming the position that has no top or one of no chance.
    """
    values = np.empty(len(logprobs))
    for at, one in enumerate(logprobs):
        if not one.top:
            raise InputError(f"position {at} has no top log-probabilities; ask for some, like logprobs=20")
        values[at] = -math.fsum(logprob for _, logprob in one.top) / len(one.top)
        if not math.isfinite(values[at]):
            raise InputError(f"position {at} has a top log-probability that is not finite; give fewer logprobs")
    return values


def groups(trace: Trace, window: int = WINDOW) -> Trace:
    """Means of every `window` tokens in a row, [tokens - window + 1]; of a shorter trace that of the whole, [1].

    In linear time. Raises InputError for an empty trace and a window below 1.
    """
    _check(trace, window)
    window = min(window, len(trace))
    # Sums of what differs from the mean: those stay small, so that little is lost in their differences.
    centre = float(np.mean(trace))
    sums = np.concatenate(([0.0], np.cumsum(trace - centre)))
    return np.asarray(centre + (sums[window:] - sums[:-window]) / window, dtype=np.float64)


def mean(trace: Trace) -> float:
    """Of the whole trace. Raises InputError for an empty one."""
    _check(trace)
    return float(np.mean(trace))


def tail(trace: Trace, window: int = WINDOW) -> float:
    """Mean of the last `window` tokens. Raises InputError as `groups`."""
    _check(trace, window)
    return float(np.mean(trace[-window:]))


def lowest_group(trace: Trace, window: int = WINDOW) -> float:
    """The least of `groups`."""
    return float(groups(trace, window).min())


def bottom_groups(trace: Trace, window: int = WINDOW, share: float = 0.1) -> float:
    """Mean of the least `share` of `groups`, rounded down, at least one. Raises InputError for one outside (0, 1]."""
    found = groups(trace, window)
    count = max(1, math.floor(_part(share, len(found))))
    return float(np.mean(np.partition(found, count - 1)[:count]))


def confidence_vote(
    answers: Sequence[str | None], confidences: Sequence[float], keep: float | None = None, same: Same = eq
) -> str | None:
    """The answer with the most confidence in sum, of the traces that answered or, with `keep`, of that share of them.

    The surest are kept, of equal ones the earlier, in number rounded up. Raises InputError for a share outside (0, 1]
    and as `votes.totals`.
    """
    totals(answers, confidences, same=lambda *_: True)  # so that an index in a message is the caller's
    voters = [at for at, answer in enumerate(answers) if answer is not None]
    if keep is not None:
        count = math.ceil(_part(keep, len(voters)))
        voters = sorted(sorted(voters, key=lambda at: -confidences[at])[:count])
    return weighted([answers[at] for at in voters], [confidences[at] for at in voters], same)


def warm_up_bar(lowest: Sequence[float], eta: float) -> float:
    """The bar that a later trace's groups must hold: percentile 100 - eta of `lowest_group` of the first traces (the
    paper takes 16), so that about `eta` percent of them pass; linear between two values.

    Raises InputError for no traces, a value that is not finite and an eta outside 0 to 100.
    """
    if not len(lowest) or not all(map(math.isfinite, lowest)) or not is_number(eta, 0, 100):
        raise InputError(
            f"the lowest groups are {shown(list(lowest))} and eta {shown(eta)}; give finite values and 0 to 100"
        )
    return float(np.percentile(np.asarray(lowest, dtype=np.float64), 100 - eta))


def consensus(
    answers: Sequence[str | None], confidences: Sequence[float], threshold: float = 0.95, same: Same = eq
) -> bool:
    """Whether to draw no more: V(best) / sum of V >= threshold, V the confidence of an answer in sum.

    No votes, or votes without any confidence, are no consensus. Raises InputError as `votes.totals`, for a confidence
    below 0 and a threshold outside (0, 1].
    """
    values = [total for _, total in totals(answers, confidences, same)]
    if any(confidence < 0 for confidence in confidences):
        raise InputError(f"the least confidence is {shown(min(confidences))}; give none below 0")
    whole = sum(values)
    return whole > 0 and max(values) >= _part(threshold, 1) * whole


def _check(trace: Trace, window: int = 1) -> None:
    if not len(trace) or window < 1:
        raise InputError(f"a trace of {len(trace)} tokens and a window of {window}; give at least 1 of each")


def _part(share: float, of: int) -> Fraction:
    """`share` of `of`, as it was written: 0.07 of 100 are 7, and not a little more."""
    if not is_number(share, 0, 1) or not share:
        raise InputError(f"share is {shown(share)}; give one above 0, at most 1")
    return Fraction(str(float(share))) * of
