"""Samples from an OpenAI-compatible server, over its chat completions."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bench.evaluation.grid import Endpoint
from bench.evaluation.samples import Request, Sample
from engine import InputError, SamplingParams
from engine.command.jsonl import changed_params

_STANDARD = {"temperature", "top_p", "max_tokens", "seed", "n", "stop", "presence_penalty", "frequency_penalty"}
_WORTH_ANOTHER_TRY = (408, 409, 425, 429, 500, 502, 503, 504)


class EndpointBackend:
    """`concurrency` requests at once; a failing one is repeated with growing pauses. Use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint")
        key = os.environ.get(endpoint.key_variable)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    @property
    def slots(self) -> int:
        """Requests that run at once."""
        return self._endpoint.concurrency

    def __enter__(self) -> EndpointBackend:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def prompt(self, message: str, system: str | None, opener: str | None, params: SamplingParams) -> Request:
        """Chat messages; the server renders them and opens the thinking."""
        if opener is not None:
            raise InputError(
                f"a condition opens its thinking with {opener!r}, which chat completions cannot say; run "
                "it on the engine in this process"
            )
        messages = [{"role": "system", "content": system}] if system is not None else []
        return Request((*messages, {"role": "user", "content": message}), params)

    def submit(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        """Start a request on a thread of the pool."""
        self._pool.submit(self._answer, request, done)

    def ask(self, message: str) -> str:
        """The answer to one message, greedy, at once. Raises InputError where the server gives none."""
        return self._ask(self.prompt(message, None, None, SamplingParams(max_tokens=1024)))[0].answer

    def _answer(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        try:
            sample, counted = self._ask(request)
            done(sample if counted else replace(sample, thinking_tokens=self._count(sample.reasoning)))
        except BaseException as error:  # whatever it is, the run must hear of it and not wait for ever
            done(error)

    def _ask(self, request: Request) -> tuple[Sample, bool]:
        started = time.monotonic()
        body = self._body(request)
        for attempt in range(self._endpoint.retries + 1):
            try:
                reply = self._post("/chat/completions", body)
                return _sample(reply, time.monotonic() - started)
            except urllib.error.HTTPError as error:
                why = error.read(2000).decode("utf-8", "replace")
                if error.code not in _WORTH_ANOTHER_TRY or attempt == self._endpoint.retries:
                    what = f"HTTP {error.code}: {' '.join(why.split())[:300]}"
                    raise InputError(f"{self._endpoint.url}: {what}") from error
            except OSError as error:
                if attempt == self._endpoint.retries:
                    raise InputError(f"{self._endpoint.url}: {error}; is the server there?") from error
            time.sleep(0.5 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _body(self, request: Request) -> dict[str, Any]:
        fields = changed_params(request.params)
        fields.setdefault("temperature", 0.0)  # a server's own default is seldom greedy
        if "logprobs" in fields:
            fields["logprobs"] = True
        if not self._endpoint.thinking_fields:
            fields = {name: value for name, value in fields.items() if name in _STANDARD}
        return {"model": self._endpoint.model, "messages": list(request.prompt), **fields}

    def _count(self, text: str) -> int:
        """Tokens of reasoning that came without a count (not every server gives one), by the server's own tokenizer."""
        body = {"model": self._endpoint.model, "prompt": text, "add_special_tokens": False}
        try:
            return int(self._post("/tokenize", body, self._endpoint.url.rstrip("/").removesuffix("/v1"))["count"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._endpoint.url}: replies have reasoning and do not count its tokens, and /tokenize "
                f"does not either ({error!r}); use a server that gives reasoning_tokens"
            ) from error

    def _post(self, path: str, body: Mapping[str, Any], base: str | None = None) -> Mapping[str, Any]:
        url = (self._endpoint.url.rstrip("/") if base is None else base) + path
        call = urllib.request.Request(url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(call, timeout=self._endpoint.timeout_s) as reply:
            data = reply.read()
        try:
            return json.loads(data)
        except ValueError as error:
            raise InputError(f"{url}: the reply is no JSON: {data[:100]!r}") from error


def _sample(reply: Mapping[str, Any], seconds: float) -> tuple[Sample, bool]:
    """One choice as a sample, and whether its thinking is counted: False where there is reasoning and no count.

    The reasoning is `reasoning_content` or, as newer servers have it, `reasoning`. Token ids, forced positions and why
    thinking ended are there where the server says so.
    """
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice["message"]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"the server's reply is no chat completion: {json.dumps(reply)[:200]}") from error
    details = usage.get("completion_tokens_details") or {}
    thinking = choice.get("thinking") or message.get("thinking") or {}
    thinking = thinking if isinstance(thinking, Mapping) else {}
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    answer = message.get("content") or ""
    stop_reason = thinking.get("stop_reason")
    if stop_reason is None and reasoning:
        stop_reason = "natural" if answer else "truncated"
    chosen = ((choice.get("logprobs") or {}).get("content")) or []
    values = [token["logprob"] for token in chosen]
    tokens = thinking.get("tokens", details.get("reasoning_tokens"))
    sample = Sample(
        token_ids=tuple(choice.get("token_ids") or ()),
        forced=tuple(choice.get("forced") or ()),
        reasoning=reasoning.strip(),
        answer=answer.strip(),
        finish_reason=choice.get("finish_reason") or "stop",
        thinking_tokens=int(tokens or 0),
        extensions=int(thinking.get("extensions", 0)),
        stop_reason=stop_reason,
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) or 0),
        completion_tokens=int(usage.get("completion_tokens", 0)),
        mean_logprob=sum(values) / len(values) if values else None,
        timing={"total_s": seconds},
    )
    return sample, bool(tokens) or not sample.reasoning
