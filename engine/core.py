"""The loop of one rank: commands in, one step, tokens out.

With `overlap` the loop launches step n+1 and only then reads step n, so the device never waits for the host; what the
host decides from a token (a stop string, an abort) takes effect one step late, and the surplus token is dropped.
Every rank applies the same commands before the same step and so does the same work; only rank 0 looks at the tokens.
"""

import time
from collections import deque
from collections.abc import Iterator

from engine.messages import Command, Event, Tell
from engine.schedule.scheduler import Scheduler, Step
from engine.schedule.sequence import Admission, Control, Sequence
from engine.step.clock import StepClock
from engine.step.launched import HostLogprobs, Launched, Read
from engine.step.runner import Runner
from kernels.thinking_tables import Finish, Record

_TOKEN, _FINISH, _TAKEN, _HELD = (int(c) for c in (Record.TOKEN, Record.FINISH, Record.TAKEN, Record.HELD))
_NOTHING = [-1, *[0] * (len(Record) - 1)]
"""The record of a step that drew nothing for a sequence."""
assert Finish.RUNNING == 0, "Core._read asks whether a record's FINISH is set"


class Core:
    """Scheduler and runner of one rank."""

    def __init__(self, scheduler: Scheduler, runner: Runner, overlap: bool) -> None:
        self.scheduler, self.runner = scheduler, runner
        self._lag = 1 if overlap else 0
        self.clock = StepClock()
        self._flying: deque[tuple[Launched, Step, float]] = deque()
        self._requests: dict[int, dict[int, Sequence]] = {}
        """The samples of each request that have not finished, by their number."""

    @property
    def context(self) -> int:
        """Most tokens a request may hold: min(max_model_len, tokens the page pool holds)."""
        return self.runner.tables.context

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work or bool(self._flying)

    def apply(self, command: Command) -> None:
        """Carry out one command. Those for a request that is already over do nothing."""
        if isinstance(command, Admission):
            self._requests[command.number] = dict(enumerate(self.scheduler.add(command)))
            return
        samples = self._requests.get(command.request_id, {})
        if isinstance(command, Tell):
            for sequence in samples.values():
                if command.control is Control.SET_BUDGET:
                    sequence.budget = command.budget
                self.runner.control(sequence, command.control)
        elif command.sample is None:
            for sequence in list(samples.values()):
                self._finish(sequence)
        elif command.sample in samples:
            self._finish(samples[command.sample])

    def step(self) -> list[Event]:
        """Launch one step and read those that are due. Returns their events, in order."""
        events: list[Event] = []
        step = self.scheduler.schedule(drained=not self._flying)
        if step is None:
            events += self._read(keep=0)
            step = self.scheduler.schedule(drained=True)
            assert step is not None  # nothing is in flight any more
        started = time.perf_counter()
        launched = self.runner.launch(step)
        if step.tokens:
            self._flying.append((launched, step, started))
        events += self._read(keep=self._lag if step.tokens else 0)
        if not self.has_work:
            self.clock.rest()
        return events

    def check(self) -> None:
        """Raises EngineDead unless all pages and slots are accounted for."""
        self.scheduler.check()

    def _read(self, keep: int) -> list[Event]:
        events: list[Event] = []
        commit = self.scheduler.commit
        while len(self._flying) > keep:
            launched, step, started = self._flying.popleft()
            read = launched.read()
            self.clock.end(step, started)
            if read is None:
                continue
            for row, (sequence, record) in enumerate(zip(launched.rows, read.records, strict=True)):
                if sequence.finished:
                    continue  # ended by the host, or by the step before, while this one was in flight
                commit(sequence, record[_TOKEN], record[_TAKEN], record[_HELD])
                if record[_FINISH]:
                    self._finish(sequence)
                events.append(
                    Event(sequence, record) if read.drawn is None else _with_logprobs(sequence, record, read.drawn, row)
                )
            for sequence, at, score, top in _of_prompts(step, read):
                if not sequence.finished:
                    events.append(Event(sequence, _NOTHING, None, top, (at, score)))
                    if at == sequence.admission.prepared.reads[-1]:
                        self._finish(sequence)
        return events

    def _finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        request, sample = sequence.key
        samples = self._requests[request]
        del samples[sample]
        if not samples:
            del self._requests[request]


def _with_logprobs(sequence: Sequence, record: list[int], drawn: HostLogprobs, row: int) -> Event:
    wanted = sequence.admission.prepared.params.logprobs
    if wanted is None or record[_TOKEN] < 0:
        return Event(sequence, record)
    return Event(sequence, record, *drawn.at(row, wanted))


def _of_prompts(step: Step, read: Read) -> Iterator[tuple[Sequence, int, float, tuple[tuple[int, float], ...]]]:
    """(sequence, position, score, nothing) of every score, (sequence, position, the next token's log-probability,
    alternatives) of every token that was followed."""
    for (sequence, at), score in zip(step.scored, read.scores or (), strict=True):
        yield sequence, at, score, ()
    if read.followed is not None:
        for row, (sequence, at) in enumerate(step.followed):
            yield sequence, at, *read.followed.at(row, sequence.admission.prepared.tops or 0)
