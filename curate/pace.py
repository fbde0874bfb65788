"""How long a piece of work will still take, from when its rows were done.

Rows say little at first. Before the first one models are loaded and compiled, which no later row repeats; those of a
batch end together, and the short ones of a batch first. So nothing is told before as many rows are done as run at once,
and then by two rates: of the rows that followed the first ones, which is too high as long as these belong to one batch,
and of all rows since the wait before the first ones began, which is too low by the start. The truth lies between them.
After a few batches the first rate alone counts, later that of the second half of the time. The last rows, as many as
run at once, say nothing of the rate, and take as long as a row takes.
"""

import math
from itertools import pairwise

TOGETHER_S = 0.5
"""Rows that are done within so many seconds count as done together."""
LEAST_S = 2.0
"""Seconds between the first and the last rows from which there is a rate."""
NEAR = 3.0
"""How many times the low rate the high one may be, for their geometric mean to be told: it is within the root."""
BATCHES = 3
"""Rows done, in rows that run at once, from which the low rate no longer counts."""


class Pace:
    """Rows done, by a clock that the caller reads in seconds. One thread may advance it and another one read."""

    def __init__(self, total: int | None, started: float, at_once: int = 1) -> None:
        """`total` rows (None: not known), of which `at_once` run at a time; `started` is the clock's first reading."""
        self.total, self.done = total, 0
        self._started, self._at_once = started, at_once
        self._last = started
        self._groups: list[tuple[float, int]] = []  # when rows were done together, and how many

    def advance(self, rows: int, now: float) -> None:
        """`rows` more are done."""
        self.done += rows
        self._last = now
        if self.total and self.done > max(self.total - self._at_once, BATCHES * self._at_once):
            return  # places run empty: the last rows say nothing of the rate
        if self._groups and now - self._groups[-1][0] < TOGETHER_S:
            began, count = self._groups[-1]
            self._groups[-1] = (began, count + rows)
        elif rows:
            self._groups.append((now, rows))

    def rate(self, now: float) -> float | None:
        """Rows per second from now on; None while nothing can be said."""
        groups = [group for group in self._groups if now - group[0] >= TOGETHER_S]  # of the last one more may follow
        waits = [after - before for before, after in pairwise([self._started, *(time for time, _ in groups)])]
        if not groups:
            return None
        # What is known beforehand comes at once, and only then is a model started: the first long wait is the start.
        first = next(i for i, wait in enumerate(waits) if wait >= max(waits) / 2)
        (began, ahead), wait, last = groups[first], waits[first], groups[-1][0]
        after = sum(count for _, count in groups[first + 1 :])
        if last - began < LEAST_S or ahead + after < self._at_once:
            return None
        elapsed = max(last - began, (now - began) / 2)  # between two batches nothing is done, but not for ever
        high, low = after / elapsed, (ahead + after) / (wait + elapsed)
        if ahead + after >= BATCHES * self._at_once:
            (half, _), *recent = [group for group in groups if group[0] >= (began + last) / 2]
            rows = sum(count for _, count in recent)  # of the second half alone, where they are enough
            return rows / max(last - half, (now - half) / 2) if rows >= BATCHES * self._at_once else high
        return math.sqrt(high * low) if high <= NEAR * low else None

    def left(self, now: float) -> float | None:
        """Seconds to go; None while nothing can be said."""
        rate = self.rate(now)
        if self.total is None or rate is None:
            return None
        if self.done >= self.total:
            return 0.0
        # The last rows, which all run by now, take as long as a row takes, however few they are.
        rest = max(self.total - self.done, self._at_once) / rate
        return max(rest - (now - self._last), rest / 2)


def about(seconds: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h": no finer than an estimate is."""
    if seconds < 95:
        return f"{max(1, round(seconds)) if seconds < 10 else round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5700 else f"{seconds / 3600:.1f} h"
