"""uvicorn's HTTP, for clients that say nothing or take nothing: heads and bodies have a time in which they come, and
replies one in which they are read."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimelyProtocol(H11Protocol):
    """One connection. Derive one with other seconds: uvicorn makes the instances."""

    head_s = 30.0
    """For a head, and for the rest of a body that nobody waits for."""
    stall_s = 60.0
    """For a reply to be read, once it is whole."""
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """It has begun, and a head is due."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Some of it has come."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """The reply has gone out, as far as the client takes it."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.stall_s, self._cut_unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        super().connection_lost(exc)
        if self._due is not None:
            self._due.cancel()

    def _expect(self) -> None:
        """Something is due while no head is whole, or while a body comes that was answered before. Between two requests
        uvicorn waits by itself."""
        theirs = self.conn.their_state
        waits = theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)
        if waits and self._due is None:
            self._due = self.loop.call_later(self.head_s, self.transport.abort)
        elif not waits and self._due is not None:
            self._due.cancel()
            self._due = None

    def _cut_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
