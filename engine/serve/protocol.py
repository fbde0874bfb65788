"""uvicorn's HTTP, for clients that say nothing: the head of a request has a time in which it comes."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimelyProtocol(H11Protocol):
    """One connection. Derive one with `head_s`, the seconds that a head may take: uvicorn makes the instances."""

    head_s = 30.0
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """It has begun, and a head is due."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Some of it has come."""
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        super().connection_lost(exc)
        if self._due is not None:
            self._due.cancel()

    def _expect(self) -> None:
        """A head is due while none is whole. Between two requests uvicorn waits by itself."""
        waits = self.conn.their_state is h11.IDLE
        if waits and self._due is None:
            self._due = self.loop.call_later(self.head_s, self.transport.abort)
        elif not waits and self._due is not None:
            self._due.cancel()
            self._due = None
