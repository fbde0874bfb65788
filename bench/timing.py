"""How this project takes times: medians of repeated calls, pairs taken in turn, a cold L2 cache on GPUs."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_FLUSH_BYTES = 256 * 2**20
"""More than any GPU's L2 cache (50 MiB on Hopper)."""


@dataclass(frozen=True)
class Times:
    """Seconds of each call, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """(90th - 10th percentile) / median: how quiet the machine was."""
        ordered = sorted(self.seconds)
        return (ordered[int(0.9 * (len(ordered) - 1))] - ordered[int(0.1 * (len(ordered) - 1))]) / self.median


def repeat(
    call: Callable[[], object], device: torch.device, min_calls: int = 5, min_seconds: float = 0.2, cold: bool = True
) -> Times:
    """Times of `call` after one warm-up, until both minima are reached. On CUDA: device time by events, after a flush
    of the L2 cache where `cold`; on the CPU: wall time.

    The flush reads: what it leaves in the cache is clean. Lines that were written would have to go back to memory while
    the call is timed, at its expense.
    """
    call()
    flush = torch.zeros(_FLUSH_BYTES // 4, dtype=torch.int32, device=device) if cold and device.type == "cuda" else None
    seconds: list[float] = []
    deadline = time.perf_counter() + min_seconds
    while len(seconds) < min_calls or time.perf_counter() < deadline:
        if flush is not None:
            flush.sum()
        seconds.append(once(call, device))
    return Times(tuple(seconds))


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: device time between two events on CUDA, wall time on the CPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def paired(a: Callable[[], float], b: Callable[[], float], rounds: int) -> list[tuple[float, float]]:
    """`rounds` pairs of what a() and b() return, taken in turn (ABBA), so that a drifting clock hits both alike."""
    return [(a(), b()) if index % 2 == 0 else (b(), a())[::-1] for index in range(rounds)]


def median_ratio(pairs: list[tuple[float, float]]) -> float:
    """The median over the pairs of first / second."""
    return statistics.median(first / second for first, second in pairs)
