"""How good step scores are: finding the first error (ProcessBench, arXiv 2412.06559), ranking, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.s1_nano_prm.traces import Trace


@dataclass(frozen=True)
class Measures:
    """All in shares of 1, on held-out traces. F1 leaves the answer out: whether it is there is no reasoning."""

    f1: float
    """harmonic mean of the next two, at `threshold`"""
    found: float
    """of traces with an error: its line is the first below the threshold"""
    passed: float
    """of traces without: no line is"""
    threshold: float
    """chosen on other traces than these"""
    auroc: float
    """a right line scores above a wrong one"""
    calibration: float
    """expected calibration error of a line's probability, ten bins"""
    answer_auroc: float
    """a right answer scores above a wrong one, at the last step"""


def lines(trace: Trace, scores: Sequence[float]) -> list[tuple[float, int]]:
    """(score, right) of the lines up to the first error, those that can be read."""
    stop = len(trace.ends) - 1 if trace.first_error is None else trace.first_error + 1
    return [(score, good) for score, good in zip(scores[:stop], trace.steps[:stop], strict=True) if good is not None]


def first_below(scores: Sequence[float], threshold: float) -> int | None:
    """The first line, the answer left out, that scores below it."""
    return next((at for at, score in enumerate(scores[:-1]) if score < threshold), None)


def f1(traces: Sequence[Trace], scores: Sequence[Sequence[float]], threshold: float) -> tuple[float, float, float]:
    """(F1, share of first errors found, share of faultless traces passed)."""
    hits = [(t.first_error, first_below(s, threshold)) for t, s in zip(traces, scores, strict=True)]
    found = _mean([said == error for error, said in hits if error is not None])
    passed = _mean([said is None for error, said in hits if error is None])
    return (2 * found * passed / (found + passed) if found + passed else 0.0), found, passed


def best_threshold(traces: Sequence[Trace], scores: Sequence[Sequence[float]]) -> float:
    """The threshold with the highest F1, of a hundred quantiles of the scores: saturated ones are apart by little."""
    values = np.unique(np.quantile([s for each in scores for s in each[:-1]], np.linspace(0, 1, 101)))
    return float(max(values, key=lambda value: f1(traces, scores, value)[0]))


def measure(traces: Sequence[Trace], scores: Sequence[Sequence[float]], threshold: float) -> Measures:
    """Everything of one scorer."""
    judged = [pair for trace, each in zip(traces, scores, strict=True) for pair in lines(trace, each)]
    values, goods = np.array([score for score, _ in judged]), np.array([good for _, good in judged])
    answers = np.array([each[-1] for each in scores]), np.array([trace.right for trace in traces])
    return Measures(
        *f1(traces, scores, threshold), threshold, auroc(values, goods), calibration(values, goods), auroc(*answers)
    )


def auroc(values: np.ndarray, goods: np.ndarray) -> float:
    """Chance that a right one scores above a wrong one; half where they are equal (Mann and Whitney)."""
    right, wrong = values[goods == 1], np.sort(values[goods == 0])
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.sum() / (2 * max(1, len(right) * len(wrong))))


def calibration(values: np.ndarray, goods: np.ndarray, bins: int = 10) -> float:
    """Mean distance of a bin's mean score from its share of right lines, weighed by the bin's size."""
    at = np.minimum((values * bins).astype(int), bins - 1)
    gaps = [abs(values[at == b].sum() - goods[at == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(values))


def label_accuracy(traces: Sequence[Trace]) -> tuple[float, float]:
    """Labels of rollouts against exact ones: (of steps up to the first error, how many agree; of first errors, how many
    are at the same step)."""
    agree, same = list[bool](), list[bool]()
    for trace in traces:
        last = len(trace.ends) - 1
        error = last if trace.first_error is None else trace.first_error
        agree += [
            (at < (trace.first_dead or 0)) == (good == 1) for at, good in enumerate(trace.steps[: error + 1][:last])
        ]
        if trace.first_error is not None:
            same.append(trace.first_dead == error)
    return _mean(agree), _mean(same)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
