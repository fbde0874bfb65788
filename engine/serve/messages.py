"""/v1/messages: the reply and its events, in the shapes of Anthropic's client."""

from collections.abc import Sequence
from typing import Any

from engine.request import Completion, RequestOutput, TokenKind
from engine.schedule.sequence import Prepared
from engine.serve.bodies import MessagesBody
from engine.serve.exchange import Exchange, event
from engine.serve.running import Running
from engine.serve.shapes import Trimmed, report

_REASONS = {"stop": "end_turn", "length": "max_tokens", "pause": "pause_turn"}


class Messages:
    """One message's reply: what was thought, then what is said."""

    def __init__(self, body: MessagesBody, model: str, prepared: Prepared, running: Running) -> None:
        self._body, self._model, self._running, self._prepared = body, model, running, prepared
        thinking = body.thinking
        self._thinks = thinking is None or thinking.type != "disabled"
        self._tells = thinking is None or thinking.display != "omitted"

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        (output,), content = outputs, list[dict[str, Any]]()
        sample = output.outputs[0]
        if self._thinks and sample.reasoning:
            content.append(_thinking(sample.reasoning if self._tells else ""))
        content.append({"type": "text", "text": self._running.tickets[0].response.said(0)})
        return self._message(content) | self._end(sample) | {"usage": self._usage(output.usage.cached_tokens, sample)}

    async def stream(self, exchange: Exchange) -> list[RequestOutput]:
        """Send the events as they come, and the end. Returns what has come of it."""
        start = self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": self._usage(0, None)}
        await exchange.events(event({"type": "message_start", "message": start}, "message_start"))
        blocks = _Blocks()
        async for pieces in self._running.pieces():
            frames = []
            for piece in pieces:
                kind, text = piece.delta.kind, piece.delta.text
                if kind is TokenKind.REASONING and self._thinks:
                    frames.append(blocks.thinking(text, self._tells))
                elif kind in (TokenKind.PLAIN, TokenKind.ANSWER):
                    frames.append(blocks.text(text))
            if any(frames):
                await exchange.events(b"".join(frames))
        outputs = await self._running.outputs()
        sample = outputs[0].outputs[0]
        last = blocks.end()
        delta = {
            "type": "message_delta",
            "delta": self._end(sample),
            "usage": self._usage(outputs[0].usage.cached_tokens, sample),
        }
        last += event(delta, "message_delta") + event({"type": "message_stop"}, "message_stop")
        await exchange.events(last, last=True)
        return outputs

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._running.identity,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
        }

    def _end(self, sample: Completion) -> dict[str, Any]:
        hit = self._running.tickets[0].response.stop_hit(0)
        reason = "stop_sequence" if hit is not None else _REASONS.get(sample.finish_reason, sample.finish_reason)
        return {"stop_reason": reason, "stop_sequence": hit, "thinking": report(sample.thinking)}

    def _usage(self, cached: int, sample: Completion | None) -> dict[str, Any]:
        thought = 0 if sample is None else max(0, sample.thinking.tokens - self._prepared.plan.thinking)
        return {
            "input_tokens": len(self._prepared.prompt) - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": 0 if sample is None else len(sample.token_ids),
            "output_tokens_details": {"thinking_tokens": thought},
        }


class _Blocks:
    """The content of a stream: a block of thinking, if any, and one of text."""

    def __init__(self) -> None:
        self._index, self._kind = -1, ""
        self._trimmed = {"thinking": Trimmed(), "text": Trimmed()}

    def thinking(self, text: str, tells: bool) -> bytes:
        """Events for more of the thinking, empty where it is not `told`."""
        if self._kind == "text":
            return b""  # thought again behind an answer, which these blocks have no place for
        shown = self._trimmed["thinking"].push(text)
        if not shown:
            return b""
        return self._begin("thinking", _thinking("")) + (self._delta("thinking", shown) if tells else b"")

    def text(self, text: str) -> bytes:
        """Events for more of the answer."""
        shown = self._trimmed["text"].push(text)
        return self._begin("text", {"type": "text", "text": ""}) + self._delta("text", shown) if shown else b""

    def end(self) -> bytes:
        """Events behind the last."""
        return self._begin("text", {"type": "text", "text": ""}) + self._close()

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._index, self._kind = self._index + 1, kind
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closed + event(start, "content_block_start")

    def _delta(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        delta = {"type": f"{kind}_delta", kind: text}
        return event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        signed = b""
        if self._kind == "thinking":
            delta = {"type": "signature_delta", "signature": ""}
            signed = event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")
        return signed + event({"type": "content_block_stop", "index": self._index}, "content_block_stop")


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}
