"""/v1/completions: texts and token ids as they are, several at once, and how likely a prompt is."""

import time
from collections.abc import Sequence
from typing import Any

from engine.request import Completion, RequestOutput
from engine.schedule.sequence import Prepared
from engine.serve.bodies import CompletionBody, StreamOptions
from engine.serve.exchange import Exchange, event
from engine.serve.running import Piece, Running
from engine.serve.shapes import TextLogprobs, ending, running_usage, usage
from engine.text.tokenizer import Tokenizer


class Completions:
    """The reply to one request. Choice `p * n + i` is sample i of prompt p."""

    def __init__(
        self,
        body: CompletionBody,
        model: str,
        tokenizer: Tokenizer,
        prepared: Sequence[Prepared],
        likely: Sequence[dict[str, Any]],
        running: Running,
    ) -> None:
        """`likely`: log-probabilities of each prompt in their shape, where they are asked for."""
        self._body, self._tokenizer, self._prepared, self._likely = body, tokenizer, prepared, likely
        self._running = running
        self._head = {"id": running.identity, "object": "text_completion", "created": int(time.time()), "model": model}

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """The reply to a request that does not stream; without outputs, the prompts alone."""
        n = self._prepared[0].params.n if outputs else self._body.n or 1
        if outputs:
            pairs = enumerate(outputs)
            choices = [self._choice(prompt, prompt * n + one.index, one) for prompt, o in pairs for one in o.outputs]
            counts = usage(outputs)
        else:
            choices = [self._choice(index // n, index, None) for index in range(n * len(self._prepared))]
            tokens = sum(len(one.prompt) for one in self._prepared)
            counts = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        return {**self._head, "choices": choices, "usage": counts}

    async def stream(self, exchange: Exchange) -> list[RequestOutput]:
        """Send the chunks as they come, and the end. Returns what has come of it."""
        n, options = self._prepared[0].params.n, self._body.stream_options or StreamOptions()
        echoes = [self._echo(prompt) if self._body.echo else "" for prompt in range(len(self._prepared))]
        choices = [_Growing(TextLogprobs(self._tokenizer, len(echo))) for echo in echoes for _ in range(n)]
        if self._body.echo:
            echoed = [
                self._chunk(index, echoes[index // n], self._prompt_logprobs(index // n))
                for index in range(len(choices))
            ]
            await exchange.events(b"".join(map(event, echoed)))
        prompt = sum(len(one.prompt) for one in self._prepared)
        async for pieces in self._running.pieces():
            frames = []
            for piece in pieces:
                chunk = self._piece(piece, choices, n)
                if options.continuous_usage_stats:
                    asked = zip(self._running.tickets, self._prepared, strict=True)
                    thought = sum(max(0, t.response.thinking(i) - p.plan.thinking) for t, p in asked for i in range(n))
                    chunk["usage"] = running_usage(prompt, sum(one.tokens for one in choices), thought)
                frames.append(event(chunk))
            await exchange.events(b"".join(frames))
        outputs = await self._running.outputs()
        last = b"data: [DONE]\n\n"
        if options.include_usage:
            last = event({**self._head, "choices": [], "usage": usage(outputs)}) + last
        await exchange.events(last, last=True)
        return outputs

    def _choice(self, prompt: int, index: int, sample: Completion | None) -> dict[str, Any]:
        echo = self._echo(prompt) if self._body.echo else ""
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = self._prompt_logprobs(prompt) if self._body.echo else None
            if sample is not None and sample.logprobs is not None:
                drawn = TextLogprobs(self._tokenizer, len(echo)).of(sample.logprobs)
                logprobs = drawn if logprobs is None else {name: logprobs[name] + drawn[name] for name in drawn}
        end = {"finish_reason": "length"} if sample is None else ending(sample, self._body.return_token_ids)
        text = echo if sample is None else echo + sample.text
        return {"index": index, "text": text, "logprobs": logprobs, **end}

    def _piece(self, piece: Piece, choices: list["_Growing"], n: int) -> dict[str, Any]:
        delta, response = piece.delta, self._running.tickets[piece.prompt].response
        index = piece.prompt * n + delta.index
        growing = choices[index]
        first = growing.tokens
        growing.tokens += len(delta.token_ids)
        logprobs = None
        if self._body.logprobs is not None:
            new = response.logprobs(delta.index)[first : growing.tokens]
            logprobs = growing.logprobs.of(new)
        chunk = self._chunk(index, delta.text, logprobs)
        if self._body.return_token_ids:
            chunk["choices"][0]["token_ids"] = delta.token_ids
        if delta.finish_reason is not None:
            chunk["choices"][0] |= ending(response.completion(delta.index), False)
        return chunk

    def _chunk(self, index: int, text: str, logprobs: Any) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}
        chunk = {**self._head, "choices": [choice]}
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            chunk["usage"] = None
        return chunk

    def _echo(self, prompt: int) -> str:
        return self._tokenizer.decode(self._prepared[prompt].prompt)

    def _prompt_logprobs(self, prompt: int) -> dict[str, Any] | None:
        return self._likely[prompt] if self._likely else None


class _Growing:
    """A choice of a stream, as far as it has been sent."""

    def __init__(self, logprobs: TextLogprobs) -> None:
        self.tokens, self.logprobs = 0, logprobs
