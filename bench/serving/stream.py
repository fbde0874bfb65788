"""One streamed request over a socket of its own: when its first tokens came, and what the server counted.

The client takes turns with the server on the same cores, so it looks at bytes alone: a read costs a look at the clock
and, until the first tokens have come, a search. JSON is read when all is over, and of it the last events only.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIMIT_S = 300.0
"""Of one request, from the connection to the last byte."""
_OVERLAP = 64
"""Bytes of earlier reads that are searched again: a mark may lie across two."""
_TEXT, _THOUGHT, _ANSWER = (
    re.compile(mark) for mark in (rb'"text":"', rb'"(?:reasoning|content)":"[^"]', rb'"content":"[^"]')
)
_EVENT = re.compile(rb"^data: (\{.*\})\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """What is sent: a path, and a body, as bytes."""

    path: str
    body: bytes
    tokens: int | None = None
    """How many the reply has to have; None: as many as it likes."""
    budget: int | None = None
    """Of thinking tokens."""

    @classmethod
    def completion(cls, ids: list[int], tokens: int, **more: Any) -> "Request":
        """Exactly `tokens` after a prompt of ids."""
        fields = {"prompt": ids, "max_tokens": tokens, "ignore_eos": True, **more}
        return cls("/v1/completions", _streamed(fields), tokens)

    @classmethod
    def chat(cls, question: str, tokens: int, budget: int, **more: Any) -> "Request":
        """A question, thought about for `budget` tokens at most, in up to `tokens` in all."""
        messages = [{"role": "user", "content": question}]
        fields = {"messages": messages, "max_tokens": tokens, "thinking_token_budget": budget, **more}
        return cls("/v1/chat/completions", _streamed(fields), budget=budget)


def _streamed(fields: Mapping[str, Any]) -> bytes:
    options = {"model": "model", "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({**options, **fields}).encode()


@dataclass(frozen=True)
class Reply:
    """What came of a request. Times are seconds of one clock; counts are the server's own."""

    due: float
    """When it was to be sent."""
    sent: float
    end: float
    first: float | None = None
    """The first token, of thinking or answer."""
    answer: float | None = None
    """The first of the answer, in a chat."""
    tokens: int = 0
    reasoning: int | None = None
    """Thinking tokens, where the server tells them."""
    budget: int | None = None
    error: str | None = None

    @property
    def overshoot(self) -> int | None:
        """Thinking tokens above the budget."""
        return None if self.reasoning is None or self.budget is None else max(0, self.reasoning - self.budget)

    @property
    def between(self) -> float | None:
        """Seconds from token to token, on average: events are no measure, since one may hold several tokens."""
        return None if self.first is None or self.tokens < 2 else (self.end - self.first) / (self.tokens - 1)


class Stream(asyncio.Protocol):
    """A request on its way. The connection is closed by the server, behind the last byte."""

    def __init__(self, request: Request, due: float) -> None:
        self._request, self._due, self._sent = request, due, 0.0
        self._first: float | None = None
        self._answer: float | None = None
        self._last = 0.0
        self._parts: list[bytes] = []
        self._marks = [_TEXT] if request.budget is None else [_THOUGHT, _ANSWER]
        self._tail = b""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def fetch(cls, host: str, port: int, request: Request, due: float | None = None) -> Reply:
        """Send it, now or late for `due`, and read the reply. What goes wrong is told by the reply."""
        stream = cls(request, time.perf_counter() if due is None else due)
        transport: asyncio.Transport | None = None
        error = None
        try:
            async with asyncio.timeout(LIMIT_S):
                transport, _ = await asyncio.get_running_loop().create_connection(lambda: stream, host, port)
                await stream._over
        except TimeoutError:
            error = f"not over after {LIMIT_S:.0f} s"
        except OSError as refused:
            error = str(refused)
        finally:
            if transport is not None:
                transport.abort()
        return stream._reply(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send all of it."""
        assert isinstance(transport, asyncio.Transport)
        head = (
            f"POST {self._request.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self._request.body)}\r\nConnection: close\r\n\r\n"
        )
        self._sent = time.perf_counter()
        transport.write(head.encode() + self._request.body)

    def data_received(self, data: bytes) -> None:
        """Keep it, and when it came."""
        self._last = time.perf_counter()
        self._parts.append(data)
        if self._marks:
            self._look(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """All has come, or as much as will."""
        if not self._over.done():
            self._over.set_result(None)

    def _look(self, data: bytes) -> None:
        seen = self._tail + data
        self._tail = seen[-_OVERLAP:]
        while self._marks and self._marks[0].search(seen):
            mark = self._marks.pop(0)
            if mark is not _ANSWER:
                self._first = self._last
            else:
                self._answer = self._last

    def _reply(self, error: str | None) -> Reply:
        data = b"".join(self._parts)
        usage, told = _usage(data)
        tokens = int(usage.get("completion_tokens", 0))
        wanted = self._request.tokens
        if error is None and wanted is not None and told is None and tokens != wanted:
            told = f"{tokens} tokens instead of {wanted}"
        details = usage.get("completion_tokens_details") or {}
        return Reply(
            due=self._due,
            sent=self._sent,
            end=self._last or time.perf_counter(),
            first=self._first,
            answer=self._answer,
            tokens=tokens,
            reasoning=details.get("reasoning_tokens"),
            budget=self._request.budget,
            error=error or told,
        )


def _usage(data: bytes) -> tuple[Mapping[str, Any], str | None]:
    """The usage that the stream ends with, and what is wrong with the stream."""
    line, _, rest = data.partition(b"\r\n")
    if b" 200 " not in line + b" ":
        body = rest.partition(b"\r\n\r\n")[2][:300].decode(errors="replace")
        return {}, f"{line.decode(errors='replace')} {body}" if data else "no reply"
    last = [json.loads(event) for event in _EVENT.findall(data[-4096:])]
    failed = next((event["error"] for event in last if event.get("error")), None)
    if failed is not None:
        return {}, f"the stream ended with {failed}"
    if b"data: [DONE]" not in data[-64:]:
        return {}, "the stream was cut"
    usage = last[-1].get("usage") if last else None
    return (usage, None) if usage else ({}, "the stream ended without usage")
