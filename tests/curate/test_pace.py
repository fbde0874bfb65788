"""What is told of the time to go is within a factor of two of the truth, on clocks that are made up."""

import heapq
import io
import itertools
import math
import re
from collections import deque
from random import Random
from time import sleep

import pytest
from rich.console import Console

from curate.pace import Pace, about
from curate.progress import LINE_EVERY_S, Bars


def steady(total, per_s, start_up, known=0):
    """Times at which rows are done, of which `known` are there at once."""
    return [0.0] * known + [start_up + i / per_s for i in range(1, total - known + 1)]


def bursts(total, size, every_s, start_up):
    """All slots end together."""
    return [start_up + every_s * (1 + i // size) + 0.002 * (i % size) for i in range(total)]


def slots(total, size, lengths, start_up):
    """Slots that take the next row when theirs has ended; a row takes so long as `lengths` says."""
    free = [start_up] * size
    ends = []
    for length in itertools.islice(lengths, total):
        ends.append(heapq.heappop(free) + length)
        heapq.heappush(free, ends[-1])
    return sorted(ends)


def drawn(draw):
    rng = Random(7)
    return (draw(rng) for _ in itertools.count())


RUNS = {
    "steady": (1, steady(2000, 10, 0)),
    "slow": (1, steady(60, 0.1, 0)),
    "a start, then steady": (32, steady(2000, 20, 30)),
    "a long start, then steady": (128, steady(20_000, 100, 180)),
    "most are known": (16, steady(2000, 10, 30, known=1000)),
    "batches": (128, bursts(1765, 128, 20, 0)),
    "a start, then batches": (128, bursts(1765, 128, 12, 30)),
    "a start, then quick batches": (128, bursts(20_000, 128, 3, 60)),
    "an engine whose rows end anywhere": (128, slots(2000, 128, drawn(lambda r: r.uniform(5, 60)), 20)),
    "an engine whose rows end at their limit": (128, slots(2000, 128, drawn(lambda r: min(40, r.uniform(9, 70))), 30)),
    "an endpoint": (16, slots(600, 16, drawn(lambda r: r.uniform(6, 12)), 0)),
    "an endpoint whose rows may be long": (16, slots(1000, 16, drawn(lambda r: 4 * math.exp(r.gauss(0, 0.8))), 0)),
}
"""Rows that run at once, and when each is done."""
SLOWER = [i / 10 for i in range(1, 1001)] + [100 + i / 2 for i in range(1, 401)]
"""Ten rows a second, then two."""


def lines(at_once, times):
    """(seconds done, what is told to be left, the truth) at each line without a terminal that tells an end."""
    pace, told, waiting = Pace(len(times), 0.0, at_once), [], deque(times)
    for now in itertools.count(LINE_EVERY_S, LINE_EVERY_S):
        while waiting and waiting[0] <= now:
            time = waiting.popleft()
            pace.advance(1, time)
        if not waiting:
            return told
        if (left := pace.left(now)) is not None:
            told.append((now, left, times[-1] - now))


@pytest.mark.parametrize("name", RUNS)
def test_the_ends_that_are_told_are_within_a_factor_of_two(name):
    at_once, times = RUNS[name]
    told = lines(at_once, times)
    at, left, truth = told[0]
    assert truth / 2 <= left <= truth * 2, (at, left, truth)
    started = next(time for time in times if time > 0)
    assert at <= started + (times[-1] - started) / 3, "a third of the work is over before anything is told"
    late = [(at, left, truth) for at, left, truth in told if truth > times[-1] / 8]
    assert all(truth / 2 <= left <= truth * 2 for _, left, truth in late), late


def test_the_last_rows_take_as_long_as_a_row_takes():
    """What is left of them, by rate alone, is a twelfth of the truth in the middle."""
    shares = []
    for seed in range(10):
        rng = Random(seed)
        times = slots(600, 16, (4 * math.exp(rng.gauss(0, 0.8)) for _ in itertools.count()), 0)
        pace, waiting = Pace(600, 0.0, 16), deque(times)
        for now in itertools.count(2, 2):
            while waiting and waiting[0] <= now:
                pace.advance(1, waiting.popleft())
            if not waiting:
                break
            if len(waiting) <= 16:
                shares.append(pace.left(now) / (times[-1] - now))
    assert 0.4 < sorted(shares)[len(shares) // 2] < 2, sorted(shares)
    pace.advance(len(waiting), now)
    assert pace.left(now + 1) == 0


def test_what_is_told_follows_a_change_of_speed():
    told = lines(8, SLOWER)
    at, left, truth = next(each for each in told if each[0] >= 200)
    assert truth / 2 <= left <= truth * 2, (at, left, truth)


def test_between_two_batches_the_end_comes_nearer_and_with_a_stop_moves_away():
    pace = Pace(1000, 0.0, 100)
    for time in (30, 40, 50, 60):
        pace.advance(100, time)
    assert [round(pace.left(now)) for now in (61, 65, 69)] == [59, 55, 51]
    assert pace.left(200) > 70


def test_nothing_is_told_where_nothing_can_be_said():
    pace = Pace(100, 0.0)
    assert pace.left(1000.0) is None
    pace.advance(50, 10.0)
    assert pace.left(11.0) is None and pace.left(1000.0) is None
    pace = Pace(None, 0.0)
    for time in range(1, 20):
        pace.advance(1, float(time))
    assert pace.left(20.0) is None and round(pace.rate(20.0), 1) == 1.0


def test_ends_are_no_finer_than_an_estimate_is():
    assert [about(s) for s in (0.2, 7.4, 44, 94, 100, 750, 5000, 8000)] == [
        *("1 s", "7 s", "40 s", "90 s", "2 min", "12 min", "83 min", "2.2 h"),
    ]


def test_a_line_every_ten_seconds_without_a_terminal(monkeypatch):
    monkeypatch.setattr("curate.progress.LINE_EVERY_S", 0.2)
    monkeypatch.setattr("curate.pace.TOGETHER_S", 0.01)
    monkeypatch.setattr("curate.pace.LEAST_S", 0.1)
    console = Console(file=io.StringIO(), width=200)
    with Bars(console).bar("trace", 100, 2) as advance:
        sleep(0.5)  # the start: lines come all the same
        for _ in range(50):
            advance(2)
            sleep(0.02)
    said = console.file.getvalue().splitlines()
    assert said[0] == "trace: 0 of 100" and len(said) >= 4
    assert any(re.fullmatch(r"trace: \d+ of 100, \d+/s, about 1 s to go", line) for line in said), said
