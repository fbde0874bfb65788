"""A submitted request as its caller holds it."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from engine.errors import EngineDead, InputError, is_whole
from engine.messages import Command, End, Tell
from engine.request import Delta, RequestOutput
from engine.response import Response
from engine.schedule.sequence import Control, Prepared
from engine.text.tokenizer import Tokenizer
from kernels.thinking_tables import UNLIMITED


class Steered:
    """A running request that can be told what to do."""

    def __init__(self, number: int, prepared: Prepared, tell: Callable[[Command], None]) -> None:
        """`tell` sends a command to the engine's loop."""
        self._number, self._plan, self._tell = number, prepared.plan, tell

    def abort(self) -> None:
        """End the request; its output has what was written, finish_reason `abort`."""
        self._tell(End(self._number))

    def end_thinking(self) -> None:
        """Close the thinking now, as a budget would; stop_reason `client`."""
        self._tell(Tell(self._number, Control.END_THINKING))

    def extend(self) -> None:
        """Let one more trigger be replaced by the extension. Raises InputError where the format cannot."""
        if self._plan.format.max_lead > 0 or not self._plan.format.thinks:
            raise InputError("extend needs a thinking format whose triggers are one token each")
        self._tell(Tell(self._number, Control.EXTEND))

    def set_budget(self, budget: int | None) -> None:
        """Move the hard maximum of T, below what is written already too; None lifts it."""
        if budget is not None and not is_whole(budget, 0, UNLIMITED):
            raise InputError(f"the budget is {budget!r}; give a whole number from 0 to {UNLIMITED}, or None")
        self._tell(Tell(self._number, Control.SET_BUDGET, UNLIMITED if budget is None else budget))


class Handle(Steered):
    """A submitted request: wait for it, read its stream, or steer it. All methods are safe from any thread."""

    def __init__(self, number: int, prepared: Prepared, tokenizer: Tokenizer, tell: Callable[[Command], None]) -> None:
        """`tell` sends a command to the engine's loop, which pushes events into `response`."""
        super().__init__(number, prepared, tell)
        self.response = Response(str(number), number, prepared, tokenizer, self._put)
        self._deltas: queue.SimpleQueue[Delta | EngineDead] = queue.SimpleQueue()
        self._output: Future[RequestOutput] = Future()

    def result(self, timeout: float | None = None) -> RequestOutput:
        """The finished request. Raises EngineDead where the engine ended first, TimeoutError after `timeout` s."""
        try:
            return self._output.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"the request has not finished within {timeout} s") from None

    def __iter__(self) -> Iterator[Delta]:
        """Deltas as they come, each for one reader; the last one, which brings the output, for all."""
        self.response.streams = True
        while True:
            delta = self._deltas.get()
            if isinstance(delta, EngineDead) or delta.output is not None:
                self._deltas.put(delta)  # whoever reads on, or again, comes to an end too
            if isinstance(delta, EngineDead):
                raise delta
            yield delta
            if delta.output is not None:
                return

    @property
    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._output.done()

    def add_done_callback(self, callback: Callable[["Handle"], None]) -> None:
        """Call `callback(self)` once the request has ended: on the engine's thread, or at once where it has already.
        What it raises is logged, and harms no request."""
        self._output.add_done_callback(lambda _: callback(self))

    def fail(self, error: EngineDead) -> None:
        """The engine ended before the request did."""
        self._deltas.put(error)
        if not self.done:
            self._output.set_exception(error)

    def _put(self, delta: Delta) -> None:
        self._deltas.put(delta)
        if delta.output is not None:
            self._output.set_result(delta.output)
