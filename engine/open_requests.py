"""Requests that are open: who gets the events of which."""

from collections.abc import Iterable
from typing import Protocol

from engine.errors import EngineDead
from engine.messages import Command, End, Event


class Receiver(Protocol):
    """What becomes of a request: `engine.response.Response`, `engine.reading.Collected`."""

    @property
    def done(self) -> bool: ...
    def push(self, event: Event) -> bool:
        """True: the core must be told to end the sample."""
        ...

    def abort(self) -> None: ...


class Holder(Protocol):
    """A request as its caller holds it."""

    @property
    def response(self) -> Receiver: ...
    def fail(self, error: EngineDead) -> None: ...


class OpenRequests(dict[int, Holder]):
    """By their numbers. One thread delivers; any may enter one."""

    def deliver(self, events: Iterable[Event]) -> list[Command]:
        """Give every event to whoever waits for it. Returns what the core must be told: samples that a stop string has
        ended, and requests whose events could not be taken, which harms no other."""
        ended: list[Command] = []
        for event in events:
            number, sample = event.sequence.key
            holder = self.get(number)
            if holder is None:
                continue
            try:
                if holder.response.push(event):
                    ended.append(End(number, sample))
                if holder.response.done:
                    del self[number]
            except Exception as error:
                del self[number]
                holder.fail(EngineDead(f"what the engine wrote could not be taken: {error!r}"))
                ended.append(End(number))
        return ended

    def abort(self, commands: Iterable[Command]) -> None:
        """Requests that one of the commands ends are over for whoever waits for them."""
        for command in commands:
            if isinstance(command, End) and command.sample is None and command.request_id in self:
                self.pop(command.request_id).response.abort()

    def fail(self, error: EngineDead) -> None:
        """Nothing will come any more."""
        while self:
            self.popitem()[1].fail(error)
