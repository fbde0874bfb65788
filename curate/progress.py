"""One bar per piece of work, with rate and estimated end; plain lines where nobody watches a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.text import Text

Progress = Callable[[int], None]
"""Told how many rows have been done since the last call."""

LINE_EVERY_S = 20.0
"""Seconds between lines without a terminal."""


def no_progress(rows: int) -> None:
    """For callers without a bar."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Bars:
    """Shows how far a piece of work is."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A function to call with the number of rows done since its last call; `total` None: not known."""
        if self._console.is_terminal:
            name = TextColumn("{task.description:>13}")
            columns = (name, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
            with Display(*columns, console=self._console, transient=True) as display:
                task = display.add_task(what, total=total)
                yield lambda rows: display.advance(task, rows)
        else:
            yield _Lines(self._console, what, total).advance


class _Lines:
    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._console, self._what, self._total = console, what, total
        self._started = self._shown = time.monotonic()
        self._done = 0

    def advance(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._shown < LINE_EVERY_S:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        left = "" if self._total is None else f" of {self._total:,}, {(self._total - self._done) / rate:,.0f} s to go"
        self._console.print(f"{self._what}: {self._done:,}{left}, {rate:,.1f}/s", highlight=False)
