"""What a round of load comes to: rates, latencies, goodput, overshoot; rounds as one; one side beside another."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.serving.stream import Reply
from bench.timing import median_ratio

Figures = Mapping[str, float | None]
"""By name, with its unit; None: nothing to tell."""


@dataclass(frozen=True)
class Goals:
    """When a reply is a good one, in seconds from when it was due."""

    ttft: float
    answer: float | None = None
    """To the first token of the answer, where replies think."""

    def met(self, reply: Reply) -> bool:
        """By a reply that came whole."""
        last = self.answer is None or (reply.answer is not None and reply.answer - reply.due <= self.answer)
        return last and reply.first is not None and reply.first - reply.due <= self.ttft


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least of `values` that at least `share` of them do not exceed; None of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def figures(replies: Sequence[Reply], goals: Goals, cpu: Mapping[str, float]) -> dict[str, float | None]:
    """Of one round: rates over the time from the first request to the last reply, latencies of what came whole from
    when it was due, and of `cpu`, CPU seconds by name, the microseconds of each token."""
    whole = [reply for reply in replies if reply.error is None]
    seconds = max(reply.end for reply in replies) - min(reply.due for reply in replies)
    tokens = sum(reply.tokens for reply in whole)
    latencies = {
        "ttft": [reply.first - reply.due for reply in whole if reply.first is not None],
        "answer": [reply.answer - reply.due for reply in whole if reply.answer is not None],
        "end": [reply.end - reply.due for reply in whole],
        "between": [reply.between for reply in whole if reply.between is not None],
    }
    over = [reply.overshoot for reply in whole if reply.overshoot is not None]
    units = {"end": ("s", 1.0)}
    found: dict[str, float | None] = {
        "requests_s": len(whole) / seconds,
        "tok_s": tokens / seconds,
    }
    for name, values in latencies.items():
        unit, scale = units.get(name, ("ms", 1e3))
        for share in (50, 99):
            value = percentile(values, share / 100)
            found[f"{name}_p{share}_{unit}"] = None if value is None else value * scale
    return found | {
        "goodput": sum(map(goals.met, whole)) / len(replies),
        "overshoot": max(over, default=None),
        "errors": len(replies) - len(whole),
        **{f"{name}_us_token": spent / tokens * 1e6 if tokens else None for name, spent in cpu.items()},
    }


def over_rounds(rounds: Sequence[Figures]) -> dict[str, float | None]:
    """The median of each figure over the rounds that have it, all errors, the most overshoot."""
    ways: dict[str, Callable[[list[float]], float]] = {"errors": sum, "overshoot": max}
    found = {}
    for name in rounds[0]:
        values = [value for one in rounds if (value := one[name]) is not None]
        found[name] = ways.get(name, statistics.median)(values) if values else None
    return found


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> dict[str, float]:
    """How many times as fast this engine's server is as another side: in tokens, and to the first of them."""
    found = {}
    for name, figure in (("ratio", "tok_s"), ("ttft_ratio", "ttft_p50_ms")):
        pairs = [(a.get(figure), b.get(figure)) for a, b in zip(ours, theirs, strict=True)]
        both = [(a, b) if name == "ratio" else (b, a) for a, b in pairs if a and b]
        if both:
            found[name] = median_ratio(both)
    return found
