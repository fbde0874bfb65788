"""One HTTP request and its reply: what came, what goes out, and whether the client is still there."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from engine.errors import plain
from engine.serve.errors import HttpError

Header = tuple[bytes, bytes]
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_WATCH_S = 1.0
"""Seconds between two looks at a client that does not read."""


class Gone(Exception):
    """The client has gone, or has stopped reading."""


class Exchange:
    """What the door makes of every request, and every route works with."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.method, self.path = scope["method"], scope["path"]
        self.asked = plain(scope.get("raw_path", b"").decode("latin-1"), 200).replace(" ", "%20")
        """The path as it came, for the log."""
        asked = self.headers.get("x-request-id", "")
        ours = asked.isascii() and asked.isprintable() and " " not in asked and 0 < len(asked) <= 128
        self.identity = asked if ours else secrets.token_hex(16)
        """What the log calls it."""
        self.owner = b""
        """The key that it came with, as a digest."""
        self.started = time.monotonic()
        self.status, self.streaming = 0, False
        self.parameters: dict[str, str] = {}
        """Of the path."""
        self.more: list[Header] = []
        """Headers of the reply, whatever it is."""
        self.notes: dict[str, Any] = {}
        """What the log says beside."""
        self._receive, self._send = receive, send
        self._sending: float | None = None

    async def read(self, most: int, within: float) -> bytes:
        """The body. Raises HttpError where it has more than `most` bytes or takes more than `within` s, Gone where the
        client has."""
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise HttpError(400, "Content-Length is no number")
        parts, size, more = list[bytes](), int(length), True
        try:
            async with asyncio.timeout(within):
                while more and size <= most:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    size, more = max(size, sum(map(len, parts))), message.get("more_body", False)
        except TimeoutError:
            raise HttpError(408, f"the body did not come within {within:g} s; send it faster") from None
        if size > most:
            raise HttpError(413, f"the body has more than {most:,} bytes; send less, or raise max_body_bytes")
        return b"".join(parts)

    async def whole(
        self,
        status: int,
        body: bytes,
        headers: Iterable[Header] = _JSON,
        more: Iterable[Header] = (),
    ) -> None:
        """The reply in one go."""
        await self._begin(status, [*headers, *more, (b"content-length", str(len(body)).encode())])
        await self._out({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def json(self, value: Any, status: int = 200, more: Iterable[Header] = ()) -> None:
        """The reply as JSON."""
        await self.whole(status, msgspec.json.encode(value), more=more)

    async def begin_events(self, more: Iterable[Header] = ()) -> None:
        """The reply is a stream of events."""
        self.streaming = True
        await self._begin(200, [*_EVENTS, *more])

    async def events(self, frames: bytes, last: bool = False) -> None:
        """Some of them."""
        await self._out({"type": "http.response.body", "body": frames, "more_body": not last})

    async def fail(self, error: HttpError, anthropic: bool) -> None:
        """Say what went wrong: as the reply, or, where that has begun, as the last event."""
        body = error.body(self.identity, anthropic)
        if not self.status:
            await self.json(body, error.status, error.headers)
        elif self.streaming:
            await self.events(event(body, "error" if anthropic else None), last=True)

    async def while_there(self, work: Coroutine[Any, Any, None], stall: float) -> None:
        """Do `work` until it is done or the client has gone, or has not read for `stall` s: then it is cancelled, and
        Gone is raised."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._disconnected())
        try:
            while not task.done():
                await asyncio.wait((task, gone), timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                since = self._sending
                stalled = since is not None and time.monotonic() - since > stall
                if not task.done() and (gone.done() or stalled):
                    if stalled:
                        self._cut()
                    raise Gone
            await task
        finally:
            for one in (task, gone):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task  # so that what it holds is let go of before anything else is done

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _cut(self) -> None:
        """End the connection now: closed, it would stay, with all that it holds, until the client has read that."""
        cycle: Any = self._send.__self__  # type: ignore[attr-defined]  # uvicorn's, which shows it in no other way
        cycle.transport.abort()

    async def _begin(self, status: int, headers: list[Header]) -> None:
        self.status = status
        named = self.identity.encode()
        headers = [*headers, *self.more, (b"x-request-id", named), (b"request-id", named)]  # as both clients call it
        await self._out({"type": "http.response.start", "status": status, "headers": headers})

    async def _out(self, message: dict[str, Any]) -> None:
        self._sending = time.monotonic()
        await self._send(message)
        self._sending = None


def event(value: Any, name: str | None = None) -> bytes:
    """One event of a stream."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"
