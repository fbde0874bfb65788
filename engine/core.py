"""The loop of one rank: commands in, one step, tokens out.

With `overlap` the loop launches step n+1 and only then reads step n, so the device never waits for the host; what the
host decides from a token (a stop string, an abort) takes effect one step late, and the surplus token is dropped.
Every rank applies the same commands before the same step and so does the same work; only rank 0 looks at the tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from engine.runner import Launched, Read, Runner
from engine.scheduler import Scheduler
from engine.sequence import Admission, Control, Sequence
from kernels.thinking import UNLIMITED, Finish, Record


@dataclass(frozen=True)
class Add:
    """A new request."""

    admission: Admission


@dataclass(frozen=True)
class End:
    """The host ends a sample (a stop string) or, with `sample` None, a whole request (an abort)."""

    request_id: int
    sample: int | None = None


@dataclass(frozen=True)
class Tell:
    """Live control of every sample of a request; `budget` goes with SET_BUDGET."""

    request_id: int
    control: Control
    budget: int = UNLIMITED


Command = Add | End | Tell


class Event(NamedTuple):
    """What one step did to one sequence: a token (-1: none), or its end, or both."""

    sequence: Sequence
    token: int
    kind: int
    forced: bool
    finish: int
    stop_reason: int
    thinking: int
    extensions: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Core:
    """Scheduler and runner of one rank."""

    def __init__(self, scheduler: Scheduler, runner: Runner, overlap: bool) -> None:
        self.scheduler, self.runner = scheduler, runner
        self._lag = 1 if overlap else 0
        self._flying: deque[Launched] = deque()
        self._requests: dict[int, list[Sequence]] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work or bool(self._flying)

    def apply(self, command: Command) -> None:
        """Carry out one command. Those for a request that is already over do nothing."""
        if isinstance(command, Add):
            self._requests[command.admission.request_id] = self.scheduler.add(command.admission)
            return
        for sequence in list(self._requests.get(command.request_id, ())):
            if sequence.finished:
                continue
            if isinstance(command, Tell):
                if command.control is Control.SET_BUDGET:
                    sequence.budget = command.budget
                self.runner.control(sequence, command.control)
            elif command.sample in (None, sequence.sample):
                self._finish(sequence)

    def step(self) -> list[Event]:
        """Launch one step and read those that are due. Returns their events, in order."""
        events: list[Event] = []
        step = self.scheduler.schedule(drained=not self._flying)
        if step is None:
            events += self._read(keep=0)
            step = self.scheduler.schedule(drained=True)
            assert step is not None  # nothing is in flight any more
        launched = self.runner.launch(step)
        if step.tokens:
            self._flying.append(launched)
        return events + self._read(keep=self._lag if step.tokens else 0)

    def check(self) -> None:
        """Raises EngineDead unless all pages and slots are accounted for."""
        self.scheduler.check()

    def _read(self, keep: int) -> list[Event]:
        events: list[Event] = []
        while len(self._flying) > keep:
            launched = self._flying.popleft()
            read = launched.read()
            if read is None:
                continue
            for row, (sequence, record) in enumerate(zip(launched.rows, read.records.tolist(), strict=True)):
                if not sequence.finished:
                    events.append(self._commit(sequence, record, read, row))
        return events

    def _commit(self, sequence: Sequence, record: list[int], read: Read, row: int) -> Event:
        token, kind, forced, finish, reason, thinking, extensions = record
        self.scheduler.commit(sequence, token)
        if finish != Finish.RUNNING:
            self._finish(sequence)
        event = Event(sequence, token, kind, bool(forced), finish, reason, thinking, extensions)
        wanted = sequence.admission.params.logprobs
        if wanted is None or read.logprobs is None or read.top_ids is None or read.top_logprobs is None or token < 0:
            return event
        top = zip(read.top_ids[row, :wanted].tolist(), read.top_logprobs[row, :wanted].tolist(), strict=True)
        return event._replace(logprob=float(read.logprobs[row]), top=tuple(top))

    def _finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        samples = self._requests.get(sequence.admission.request_id, [])
        if all(s.finished for s in samples):
            self._requests.pop(sequence.admission.request_id, None)


assert len(Record) == 7, "Core._commit unpacks a record by position"
