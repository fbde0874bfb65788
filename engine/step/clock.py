"""What each step took, for whoever asks: the engine's own clock."""

import time
from dataclasses import dataclass

from engine.schedule.scheduler import Step


@dataclass(frozen=True)
class StepTime:
    """One step: what it did, and how long it took."""

    seconds: float
    """From the end of the step before to its own, as the host sees them: the pace at which tokens come. From its launch
    where nothing ran before it."""
    decodes: int
    """Sequences that decoded a token."""
    prefill: int
    """Tokens of prompts that went through the decoder."""
    keys: int
    """Keys that the decoding sequences saw, all together."""
    ended: float
    """When, by `time.perf_counter`."""


class StepClock:
    """Times steps in the order in which they are launched, which is that in which they end."""

    def __init__(self) -> None:
        self.times: list[StepTime] | None = None
        """Where finished steps are entered; None: nobody asks."""
        self._ended: float | None = None

    def end(self, step: Step, launched: float) -> None:
        """The step, launched at that `time.perf_counter`, has been read."""
        now, times = time.perf_counter(), self.times  # whoever asks may stop asking meanwhile
        if times is not None:
            since = launched if self._ended is None else self._ended
            decodes = len(step.decodes)
            times.append(StepTime(now - since, decodes, step.tokens - decodes, step.keys, now))
        self._ended = now

    def rest(self) -> None:
        """Nothing is left to do: what comes next is not late."""
        self._ended = None
