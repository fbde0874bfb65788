"""/v1/chat/completions: the reply and its chunks, in the shapes of OpenAI's client."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from engine.request import Completion, RequestOutput, TokenKind
from engine.schedule.sequence import Prepared
from engine.serve.bodies import ChatBody, StreamOptions
from engine.serve.exchange import Exchange, event
from engine.serve.running import Piece, Running
from engine.serve.shapes import Trimmed, chat_logprobs, ending, running_usage, usage
from engine.text.tokenizer import Tokenizer

_CONTENT = (TokenKind.PLAIN, TokenKind.ANSWER)


class Chat:
    """One chat's reply. Its choices are the samples of one prompt."""

    def __init__(self, body: ChatBody, model: str, tokenizer: Tokenizer, prepared: Prepared, running: Running) -> None:
        self._body, self._tokenizer, self._running = body, tokenizer, running
        self._count, self._prepared = prepared.params.n, prepared
        self._head = {"id": running.identity, "created": int(time.time()), "model": model}

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(sample) for sample in outputs[0].outputs],
            "usage": usage(outputs),
            "timing": asdict(outputs[0].timing),
        }

    async def stream(self, exchange: Exchange) -> list[RequestOutput]:
        """Send the chunks as they come, and the end. Returns what has come of it."""
        options = self._body.stream_options or StreamOptions()
        count, response = self._count, self._running.tickets[0].response
        choices = [_Growing() for _ in range(count)]
        prompt = len(self._prepared.prompt)
        begun = [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(count)]
        if options.continuous_usage_stats:
            begun = [{**chunk, "usage": running_usage(prompt, 0, 0)} for chunk in begun]
        await exchange.events(b"".join(map(event, begun)))
        async for pieces in self._running.pieces():
            frames = []
            for piece in pieces:
                growing = choices[piece.delta.index]
                growing.tokens += len(piece.delta.token_ids)
                for chunk in self._chunks(piece, growing):
                    if options.continuous_usage_stats:
                        written = sum(one.tokens for one in choices)
                        before = self._prepared.plan.thinking
                        thought = sum(max(0, response.thinking(index) - before) for index in range(count))
                        chunk["usage"] = running_usage(prompt, written, thought)
                    frames.append(event(chunk))
            await exchange.events(b"".join(frames))
        outputs = await self._running.outputs()
        last = b"data: [DONE]\n\n"
        if options.include_usage:
            last = (
                event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(outputs)}) + last
            )
        await exchange.events(last, last=True)
        return outputs

    def _choice(self, sample: Completion) -> dict[str, Any]:
        body = self._body
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self._running.tickets[0].response.said(sample.index),
            "refusal": None,
        }
        if not body.separate_reasoning:
            message["content"] = sample.text
        elif body.include_reasoning and sample.reasoning:
            message |= {"reasoning": sample.reasoning, "reasoning_content": sample.reasoning}
        return {
            "index": sample.index,
            "message": message,
            "logprobs": None if sample.logprobs is None else chat_logprobs(self._tokenizer, sample.logprobs),
            **ending(sample, body.return_token_ids),
        }

    def _chunks(self, piece: Piece, growing: "_Growing") -> Iterator[dict[str, Any]]:
        """Those of a piece: one with its text, one with the end where it is the last."""
        delta, body = piece.delta, self._body
        logprobs = None
        if body.logprobs and delta.token_ids:
            response = self._running.tickets[piece.prompt].response
            new = response.logprobs(delta.index)[growing.tokens - len(delta.token_ids) : growing.tokens]
            logprobs = chat_logprobs(self._tokenizer, new)
        shown = self._shown(delta.text, delta.kind, growing)
        if shown or logprobs or (body.thinking_events and delta.text) or (body.return_token_ids and delta.token_ids):
            chunk = self._chunk(delta.index, shown)
            choice = chunk["choices"][0]
            choice["logprobs"] = logprobs
            if body.return_token_ids:
                choice["token_ids"] = delta.token_ids
            if body.thinking_events:
                choice["event"] = {
                    "kind": TokenKind(delta.kind).name.lower(),
                    "text": delta.text,
                    "forced": piece.forced,
                    "tokens": len(delta.token_ids),
                    "thinking_tokens": self._running.tickets[piece.prompt].response.thinking(delta.index),
                }
            yield chunk
        if delta.finish_reason is not None:
            chunk = self._chunk(delta.index, {})
            completion = self._running.tickets[piece.prompt].response.completion(delta.index)
            chunk["choices"][0] |= ending(completion, False)
            yield chunk

    def _shown(self, text: str, kind: TokenKind, growing: "_Growing") -> dict[str, Any]:
        """What of a piece's text a delta shows."""
        body = self._body
        if not body.separate_reasoning:
            return {"content": text} if text else {}
        if kind in _CONTENT:
            text = growing.content.push(text)
            return {"content": text} if text else {}
        if kind is TokenKind.REASONING and body.include_reasoning:
            text = growing.reasoning.push(text)
            return {"reasoning": text, "reasoning_content": text} if text else {}
        return {}

    def _chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            chunk["usage"] = None
        return chunk


class _Growing:
    """A choice of a stream, as far as it has been sent."""

    def __init__(self) -> None:
        self.reasoning, self.content = Trimmed(), Trimmed()
        self.tokens = 0
