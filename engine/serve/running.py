"""What one HTTP request has running in the engines, and what has come of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from engine.errors import EngineDead
from engine.handle import Steered
from engine.messages import Command
from engine.request import Delta, RequestOutput
from engine.response import Response
from engine.schedule.sequence import Prepared
from engine.text.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A delta of one of the prompts."""

    prompt: int
    delta: Delta

    @property
    def forced(self) -> bool:
        """Whether the engine wrote all of it."""
        return bool(self.delta.token_ids) and len(self.delta.forced) == len(self.delta.token_ids)

    def joined(self, other: "Piece") -> "Piece | None":
        """Both as one, where they are alike."""
        a, b = self.delta, other.delta
        if (self.prompt, a.index, a.kind, self.forced) != (other.prompt, b.index, b.kind, other.forced):
            return None
        if a.finish_reason is not None or b.finish_reason is not None:
            return None
        return Piece(
            self.prompt,
            a._replace(text=a.text + b.text, token_ids=a.token_ids + b.token_ids, forced=a.forced + b.forced),
        )


class Running:
    """The prompts of one HTTP request. All of it runs on one event loop."""

    def __init__(self, identity: str, owner: bytes, tokenizer: Tokenizer, streams: bool) -> None:
        """`identity` is what the client knows it by, `owner` the key that it came with."""
        self.identity, self.owner = identity, owner
        self.tickets: list[Ticket] = []
        self._tokenizer, self._streams = tokenizer, streams
        self._pieces: list[Piece] = []
        self._outputs: dict[int, RequestOutput] = {}
        self._error: EngineDead | None = None
        self._news = asyncio.Event()

    def ticket(self, prepared: Prepared, tell: Callable[[Command], None], number: int) -> "Ticket":
        """A holder for its next prompt, which runs as request `number`."""
        ticket = Ticket(self, len(self.tickets), prepared, number, tell)
        ticket.response.streams = self._streams
        self.tickets.append(ticket)
        return ticket

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What has come since the last time, as often as the reader takes it, until all prompts have ended. Pieces
        that are alike and have waited together are one. Raises EngineDead where the engine ended first."""
        ended = False
        while not ended:
            await self._news.wait()
            self._news.clear()
            pieces, self._pieces = self._pieces, []
            ended = len(self._outputs) == len(self.tickets)
            if pieces:
                yield _merged(pieces)
            if self._error is not None:
                raise self._error

    async def outputs(self) -> list[RequestOutput]:
        """All prompts' outputs in order. Raises EngineDead where the engine ended first."""
        while len(self._outputs) < len(self.tickets):
            await self._news.wait()
            self._news.clear()
            if self._error is not None:
                raise self._error
        return [self._outputs[prompt] for prompt in range(len(self.tickets))]

    def abort(self) -> None:
        """End what has not ended."""
        for ticket in self.tickets:
            if not ticket.response.done:
                ticket.abort()

    def put(self, piece: Piece) -> None:
        """A delta has come."""
        if self._streams:
            self._pieces.append(piece)
        if piece.delta.output is not None:
            self._outputs[piece.prompt] = piece.delta.output
        if self._streams or piece.delta.output is not None:
            self._news.set()

    def fail(self, error: EngineDead) -> None:
        """Nothing more will come of one of the prompts."""
        self._error = error
        self._news.set()


class Ticket(Steered):
    """One prompt of an HTTP request, as a replica holds it."""

    def __init__(
        self, running: Running, prompt: int, prepared: Prepared, number: int, tell: Callable[[Command], None]
    ) -> None:
        super().__init__(number, prepared, tell)
        self._running, self._prompt = running, prompt
        self.response = Response(running.identity, number, prepared, running._tokenizer, self._put)

    def fail(self, error: EngineDead) -> None:
        """The engine has ended."""
        self._running.fail(error)

    def _put(self, delta: Delta) -> None:
        self._running.put(Piece(self._prompt, delta))


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged = pieces[:1]
    for piece in pieces[1:]:
        joined = merged[-1].joined(piece)
        if joined is None:
            merged.append(piece)
        else:
            merged[-1] = joined
    return merged
