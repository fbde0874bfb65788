"""One bar per piece of work, with rate and estimated end; plain lines where nobody watches a terminal."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Display
from rich.text import Text

from curate.pace import Pace, about
from engine.errors import plain

Progress = Callable[[int], None]
"""Told how many rows have been done since the last call."""

LINE_EVERY_S = 10.0
"""Seconds between lines without a terminal."""


def no_progress(rows: int) -> None:
    """For callers without a bar."""


class _Told(ProgressColumn):
    """Rate and end by `pace`."""

    max_refresh = 1.0

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        return Text(told(self._pace, time.monotonic()))


class Bars:
    """Shows how far a piece of work is."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def bar(self, what: str, total: int | None, at_once: int = 1) -> Iterator[Progress]:
        """A function to call with the number of rows done since its last call; `total` None: not known. `at_once`: how
        many rows run at a time."""
        pace = Pace(total, time.monotonic(), at_once)
        if self._console.is_terminal:
            with Display(
                TextColumn("{task.description:>13}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _Told(pace),
                console=self._console,
                transient=True,
            ) as display:
                task = display.add_task(plain(what, 40), total=total)

                def advance(rows: int) -> None:
                    pace.advance(rows, time.monotonic())
                    display.advance(task, rows)

                yield advance
        else:
            with _lines(self._console, plain(what, 40), pace):
                yield lambda rows: pace.advance(rows, time.monotonic())


def told(pace: Pace, now: float) -> str:
    """Such as "12.5/s, about 3 min to go"; "" while nothing can be said."""
    rate, left = pace.rate(now), pace.left(now)
    speed = "" if rate is None else f"{rate:,.1f}/s" if rate < 10 else f"{rate:,.0f}/s"
    return speed if left is None else f"{speed}, about {about(left)} to go"


@contextmanager
def _lines(console: Console, what: str, pace: Pace) -> Iterator[None]:
    """Says every `LINE_EVERY_S` how far it is, rows or none."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LINE_EVERY_S):
            of = "" if pace.total is None else f" of {pace.total:,}"
            said = filter(None, (f"{what}: {pace.done:,}{of}", told(pace, time.monotonic())))
            console.print(", ".join(said), highlight=False, markup=False)

    thread = threading.Thread(target=tell, name=f"progress of {what}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
