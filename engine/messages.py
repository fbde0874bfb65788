"""What the loop is told and what it tells, and both as MessagePack of fixed types.

Commands come from callers, and rank 0 sends them to the others before each step; events go to whoever waits for a
request, in another process too. Bytes from elsewhere are data, never a program: they decode to these or are refused.
"""

from array import array
from collections.abc import Sequence as Sequences
from typing import Any, NamedTuple, Protocol

import msgspec

from engine.errors import EngineDead
from engine.schedule.sequence import Admission, Control
from kernels.thinking_tables import UNLIMITED, Record


class End(msgspec.Struct, frozen=True, tag=True):
    """The host ends a sample (a stop string) or, with `sample` None, a whole request (an abort)."""

    request_id: int
    sample: int | None = None


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Live control of every sample of a request; `budget` goes with SET_BUDGET."""

    request_id: int
    control: Control
    budget: int = UNLIMITED


Command = Admission | End | Tell


class Source(Protocol):
    """What an event says of the sequence that it is about: `engine.schedule.sequence.Sequence` has it."""

    @property
    def key(self) -> tuple[int, int]:
        """(request, sample)"""

    @property
    def sample(self) -> int: ...
    @property
    def cached(self) -> int:
        """Prompt tokens found in the prefix cache."""

    @property
    def seated_at(self) -> float | None:
        """Monotonic seconds, the same clock in every process of a machine."""


class Event(NamedTuple):
    """What one step did to one sequence: a token, or its end, or both."""

    sequence: Source
    record: list[int]
    """fields of kernels.thinking_tables.Record, in its order"""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    score: tuple[int, float] | None = None
    """(position, score), where one was computed instead; (position, log-probability of the next token of the prompt)
    where that was asked for, and `top` is what might have followed"""

    @property
    def token(self) -> int:
        """-1: none was committed"""
        return self.record[Record.TOKEN]


class Seen(NamedTuple):
    """A sequence of another process."""

    number: int
    sample: int
    cached: int
    seated_at: float | None

    @property
    def key(self) -> tuple[int, int]:
        """(request, sample)"""
        return self.number, self.sample


def encode_commands(commands: Sequences[Command], closing: bool) -> bytes:
    """The commands in order, and whether the loop ends behind them."""
    return _ENCODER.encode((commands, closing))


def decode_commands(data: bytes) -> tuple[list[Command], bool]:
    """What `encode_commands` was given. Raises EngineDead for anything else."""
    try:
        commands, closing = _COMMANDS.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineDead(f"what came from rank 0 are no commands: {error}") from error
    return commands, closing


def encode_events(events: Sequences[Event]) -> bytes:
    """What a step did, in order."""
    return _ENCODER.encode([(_seen(event.sequence), *event[1:]) for event in events])


def decode_events(data: bytes) -> list[Event]:
    """What `encode_events` was given. Raises EngineDead for anything else."""
    try:
        return [Event(*one) for one in _EVENTS.decode(data)]
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineDead(f"what came from the engine are no events: {error}") from error


def _seen(sequence: Source) -> Seen:
    return Seen(*sequence.key, sequence.cached, sequence.seated_at)


def _plain(value: Any) -> Any:
    """What MessagePack has no type for: prompts, and the mappings and numbers of other libraries."""
    if isinstance(value, array):
        return value.tobytes()
    return float(value) if isinstance(value, float) else dict(value)


def _typed(kind: type, value: Any) -> Any:
    if kind is array:
        return array("i", value)
    raise NotImplementedError(kind)


class _SeenEvent(NamedTuple):
    """An Event as it arrives: fixed types throughout."""

    sequence: Seen
    record: list[int]
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    score: tuple[int, float] | None


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_COMMANDS = msgspec.msgpack.Decoder(tuple[list[Command], bool], dec_hook=_typed)
_EVENTS = msgspec.msgpack.Decoder(list[_SeenEvent])
