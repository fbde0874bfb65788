"""/v1/responses: the reply and its events, in the shapes of OpenAI's newer interface. Nothing is stored."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from engine.request import Completion, RequestOutput, TokenKind
from engine.schedule.sequence import Prepared
from engine.serve.bodies import ResponsesBody
from engine.serve.exchange import Exchange, event
from engine.serve.running import Running
from engine.serve.shapes import Trimmed, ending

_KINDS = {TokenKind.REASONING: "reasoning", TokenKind.PLAIN: "message", TokenKind.ANSWER: "message"}


class Responses:
    """One response: an item of reasoning, if there is any, and a message."""

    def __init__(self, body: ResponsesBody, model: str, prepared: Prepared, running: Running) -> None:
        self._body, self._model, self._prepared, self._running = body, model, prepared, running
        self._created = int(time.time())
        self._sent = 0

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        sample, status = outputs[0].outputs[0], _status(outputs[0].outputs[0])
        thought = [_item("reasoning", self._identity("rs"), sample.reasoning)] if self._shows(sample) else []
        said = _item("message", self._identity("msg"), self._running.tickets[0].response.said(0))
        return self._response(status, [*thought, said], outputs[0])

    async def stream(self, exchange: Exchange) -> list[RequestOutput]:
        """Send the events as they come, and the end. Returns what has come of it."""
        begun = [self.event(f"response.{name}", response=self._response("in_progress", [])) for name in _BEGUN]
        await exchange.events(b"".join(begun))
        items = _Items(self)
        async for pieces in self._running.pieces():
            frames: list[bytes] = []
            for piece in pieces:
                kind = _KINDS.get(piece.delta.kind)
                if kind == "message" or (kind == "reasoning" and self._body.include_reasoning):
                    frames += items.more(kind, piece.delta.text)
            if frames:
                await exchange.events(b"".join(frames))
        outputs = await self._running.outputs()
        status = _status(outputs[0].outputs[0])
        last = [*items.end(), self.event(f"response.{status}", response=self._response(status, items.done, outputs[0]))]
        await exchange.events(b"".join(last), last=True)
        return outputs

    def item(self, kind: str) -> dict[str, Any]:
        """An item without its text, in progress."""
        prefix = "rs" if kind == "reasoning" else "msg"
        return {**_item(kind, self._identity(prefix), ""), "content": [], "status": "in_progress"}

    def event(self, kind: str, **fields: Any) -> bytes:
        """The next event."""
        number, self._sent = self._sent, self._sent + 1
        return event({"type": kind, "sequence_number": number, **fields}, kind)

    def _identity(self, prefix: str) -> str:
        return f"{prefix}_{self._running.identity.rpartition('-')[2]}"

    def _shows(self, sample: Completion) -> bool:
        return self._body.include_reasoning and bool(sample.reasoning)

    def _response(
        self, status: str, items: list[dict[str, Any]], output: RequestOutput | None = None
    ) -> dict[str, Any]:
        body, params = self._body, self._prepared.params
        found: dict[str, Any] = {
            "id": self._running.identity,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": items,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": params.max_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
            "store": False,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
        }
        if output is not None:
            found |= ending(output.outputs[0], body.return_token_ids) | {"usage": _usage(output)}
        return found


class _Items:
    """What a stream has of items: one at a time, each of one part."""

    def __init__(self, response: Responses) -> None:
        self._response = response
        self.done: list[dict[str, Any]] = []
        self._kind, self._text, self._trimmed = "", "", Trimmed()

    def more(self, kind: str, text: str) -> Iterator[bytes]:
        """Events for more text of a kind; white space around an item's text is not shown."""
        if kind != self._kind:
            if not text.strip():
                return
            yield from self._close()
            self._kind, self._text, self._trimmed = kind, "", Trimmed()
            yield from self._open()
        shown = self._trimmed.push(text)
        self._text += shown
        if shown:
            yield self._event(f"{_part(kind)}.delta", delta=shown)

    def end(self) -> Iterator[bytes]:
        """Events behind the last text. There is a message, if an empty one."""
        if self._kind != "message":
            yield from self._close()
            self._kind, self._text = "message", ""
            yield from self._open()
        yield from self._close()

    def _open(self) -> Iterator[bytes]:
        item = self._response.item(self._kind)
        yield self._response.event("response.output_item.added", output_index=len(self.done), item=item)
        yield self._event("content_part.added", part=_content(self._kind, ""))

    def _close(self) -> Iterator[bytes]:
        if not self._kind:
            return
        part = _content(self._kind, self._text)
        yield self._event(f"{_part(self._kind)}.done", text=self._text)
        yield self._event("content_part.done", part=part)
        item = self._response.item(self._kind) | {"content": [part], "status": "completed"}
        yield self._response.event("response.output_item.done", output_index=len(self.done), item=item)
        self.done.append(item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        place = {"item_id": self._response.item(self._kind)["id"], "output_index": len(self.done), "content_index": 0}
        logprobs: dict[str, Any] = {"logprobs": []} if kind.startswith("output_text") else {}
        return self._response.event(f"response.{kind}", **place, **fields, **logprobs)


_BEGUN = ("created", "in_progress")


def _part(kind: str) -> str:
    return "reasoning_text" if kind == "reasoning" else "output_text"


def _content(kind: str, text: str) -> dict[str, Any]:
    more: dict[str, Any] = {} if kind == "reasoning" else {"annotations": [], "logprobs": []}
    return {"type": _part(kind), "text": text, **more}


def _item(kind: str, identity: str, text: str) -> dict[str, Any]:
    own: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
    return {"type": kind, "id": identity, **own, "content": [_content(kind, text)], "status": "completed"}


def _status(sample: Completion) -> str:
    return "completed" if sample.finish_reason == "stop" else "incomplete"


def _usage(output: RequestOutput) -> dict[str, Any]:
    usage = output.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
