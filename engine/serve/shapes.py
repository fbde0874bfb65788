"""What all replies have in common: usage, the report on thinking, log-probabilities, and text without white space
around it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from engine.request import Completion, Logprob, RequestOutput, ThinkingReport
from engine.text.tokenizer import IncrementalDecoder, Tokenizer

_LEAST = -9999.0
"""What stands for the log-probability of the impossible: JSON has no infinity, and OpenAI's says this."""


class Trimmed:
    """Text that comes in pieces, without the white space at its ends: the pieces joined are what `str.strip` leaves."""

    def __init__(self) -> None:
        self._begun, self._kept = False, ""

    def push(self, text: str) -> str:
        """What can be shown now."""
        text = self._kept + text
        if not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._begun |= bool(shown)
        self._kept = text[len(shown) :]
        return shown


def usage(outputs: Sequence[RequestOutput]) -> dict[str, Any]:
    """Tokens of all prompts of a request, in OpenAI's shape."""
    prompt = sum(output.usage.prompt_tokens for output in outputs)
    completion = sum(output.usage.completion_tokens for output in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(output.usage.cached_tokens for output in outputs)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(output.usage.reasoning_tokens for output in outputs),
            "forced_tokens": sum(output.usage.forced_tokens for output in outputs),
        },
    }


def running_usage(prompt: int, completion: int, thinking: int) -> dict[str, Any]:
    """As `usage`, while it grows."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def report(thinking: ThinkingReport) -> dict[str, Any]:
    """Why thinking ended, and what it came to."""
    return {
        "tokens": thinking.tokens,
        "forced_tokens": thinking.forced_tokens,
        "extensions": thinking.extensions,
        "stop_reason": thinking.stop_reason,
    }


def ending(sample: Completion, ids: bool) -> dict[str, Any]:
    """What a choice says at its end beside its text; `ids`: token ids are asked for."""
    found: dict[str, Any] = {
        "finish_reason": sample.finish_reason,
        "thinking": report(sample.thinking),
        "forced": sample.forced,
    }
    if ids:
        found["token_ids"] = sample.token_ids
    if sample.error is not None:
        found["error"] = sample.error
    return found


def chat_logprobs(tokenizer: Tokenizer, logprobs: Iterable[Logprob]) -> dict[str, Any]:
    """In the shape of chats: one entry for each token, forced ones marked."""
    return {
        "content": [
            {
                **_token(tokenizer, one.token_id, one.logprob),
                "top_logprobs": [_token(tokenizer, token, value) for token, value in one.top],
                **({"forced": True} if one.forced else {}),
            }
            for one in logprobs
        ],
        "refusal": None,
    }


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": [*data]}


class TextLogprobs:
    """Log-probabilities in the shape of completions, of a text that may come in parts."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        """`offset`: characters of text before the first token."""
        self._tokenizer, self._offset, self._decoder = tokenizer, offset, IncrementalDecoder()

    def of(self, logprobs: Iterable[Logprob | tuple[int, None]]) -> dict[str, Any]:
        """Of the next tokens; a pair is one that has none, as a prompt's first. A token begins where the text does that
        it is part of, so those that share a character begin alike."""
        tokens, offsets = list[str](), list[int]()
        values, tops = list[float | None](), list[dict[str, float] | None]()
        for one in logprobs:
            token = one.token_id if isinstance(one, Logprob) else one[0]
            text = self._tokenizer.decode([token])
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(self._decoder.push(self._tokenizer.token_bytes(token)))
            values.append(finite(one.logprob) if isinstance(one, Logprob) else None)
            tops.append(self._best(one, text) if isinstance(one, Logprob) else None)
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _best(self, one: Logprob, text: str) -> dict[str, float]:
        best: dict[str, float] = {}
        for other, value in one.top:  # tokens may have the same text: the likeliest stands
            best.setdefault(self._tokenizer.decode([other]), finite(value))
        return best if text in best else {**best, text: finite(one.logprob)}


def finite(value: float) -> float:
    """JSON has no infinity."""
    return value if math.isfinite(value) else _LEAST
