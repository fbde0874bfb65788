"""What a request reads of its prompt, which comes to its caller at once and whole."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from engine.errors import EngineDead
from engine.messages import Command, End, Event
from engine.schedule.sequence import Prepared

T = TypeVar("T")
Found = dict[int, tuple[float, tuple[tuple[int, float], ...]]]
"""By position, what was read there: a score; or the next token's log-probability, and the likeliest with theirs."""


class Collected:
    """Gathers what a request reads as it comes: what a response is to a request that draws."""

    def __init__(self, prepared: Prepared, end: Callable[[Found | EngineDead, int], None]) -> None:
        """`end` gets what was read, and the tokens that were found computed."""
        self._last, self._end = prepared.reads[-1], end
        self._found: Found = {}
        self.done = False

    def push(self, event: Event) -> bool:
        """Take one event of the core."""
        assert event.score is not None
        at, score = event.score
        self._found[at] = score, event.top  # once more where the request has lost its pages meanwhile
        if at == self._last:
            self.done = True
            self._end(self._found, event.sequence.cached)
        return False

    def abort(self) -> None:
        """The request was told to end."""
        self.done = True
        self._end(EngineDead("the request was aborted"), 0)


class Reading(Generic[T]):
    """What was asked for, as its caller holds it. All methods are safe from any thread."""

    number: int
    """Of the request, once it is queued."""
    response: Collected

    def __init__(self, tell: Callable[[Command], None]) -> None:
        """`tell` sends a command to the engine's loop."""
        self._tell = tell
        self.future: Future[T] = Future()
        """Of the result: for those who wait for it in a loop of their own."""
        self.future.set_running_or_notify_cancel()  # `abort` ends it, and nothing else

    def result(self, timeout: float | None = None) -> T:
        """What was read. Raises EngineDead where the engine ended first or it was aborted, TimeoutError after `timeout`
        s."""
        return self.future.result(timeout)

    @property
    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self.future.done()

    def abort(self) -> None:
        """Nobody waits for it any more."""
        if not self.done:
            self._tell(End(self.number))

    def fail(self, error: EngineDead) -> None:
        """The engine ended before it came."""
        if not self.done:
            self.future.set_exception(error)
