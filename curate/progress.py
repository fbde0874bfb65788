"""One bar per piece of work, with rate and estimated end; plain lines where nobody watches a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.text import Text

from engine.errors import plain

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
            with Display(
                TextColumn("{task.description:>13}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            ) as display:
                task = display.add_task(plain(what, 40), total=total)
                yield lambda rows: display.advance(task, rows)
        else:
            yield _lines(self._console, what, total)


def _lines(console: Console, what: str, total: int | None) -> Progress:
    started = shown = time.monotonic()
    done = 0

    def advance(rows: int) -> None:
        nonlocal done, shown
        done, now = done + rows, time.monotonic()
        if now - shown >= LINE_EVERY_S:
            shown, rate = now, done / (now - started)
            left = "" if total is None else f" of {total:,}, {(total - done) / rate:,.0f} s to go"
            console.print(f"{plain(what, 40)}: {done:,}{left}, {rate:,.1f}/s", highlight=False, markup=False)

    return advance
