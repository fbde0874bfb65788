"""Samples from an OpenAI-compatible server, over its chat completions."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, get_args

import msgspec

from bench.evaluation.grid import Endpoint
from bench.evaluation.samples import Request, Sample, from_values
from curate.models.client import Client, EndpointConfig, Failed
from engine import InputError, SamplingParams
from engine.command.jsonl import changed_params
from engine.errors import is_whole, shown
from engine.request import StopReason

_STANDARD = {"temperature", "top_p", "max_tokens", "seed", "n", "stop", "presence_penalty", "frequency_penalty"}


class EndpointBackend(AbstractContextManager["EndpointBackend"]):
    """`concurrency` requests at once, in a loop on a thread of its own. Use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self.slots = endpoint, endpoint.concurrency
        self._free = asyncio.Semaphore(endpoint.concurrency)
        self._client = Client(
            EndpointConfig(
                model=endpoint.model,
                base_url=endpoint.url,
                api_key_env=endpoint.key_variable if endpoint.key_variable in os.environ else "",
                timeout_s=endpoint.timeout_s,
                max_tries=endpoint.retries + 1,
                first_wait_s=0.5,
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def prompt(self, messages: Sequence[Mapping[str, str]], opener: str | None, params: SamplingParams) -> Request:
        """Chat messages; the server renders them and opens the thinking."""
        if opener is not None:
            raise InputError(
                f"a condition opens its thinking with {opener!r}, which chat completions cannot say; run "
                "it on the engine in this process"
            )
        return Request(tuple(messages), params)

    def submit(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        """Start a request on a thread of the pool."""
        asyncio.run_coroutine_threadsafe(self._answer(request, done), self._loop)

    async def _end(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        async with self._client:
            pass

    async def _answer(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        try:
            async with self._free:
                done(await self._ask(request))
        except BaseException as error:  # whatever it is, the run must hear of it and not wait for ever
            done(error)

    async def _ask(self, request: Request) -> Sample:
        started = time.monotonic()
        try:
            (sample, counted), _ = await self._client.post("/chat/completions", self._body(request), _sample)
        except Failed as error:
            what = f"{error}; is the server there?" if error.kind == "connection" else str(error)
            raise InputError(f"{self._endpoint.url}: {what}") from error
        sample = replace(sample, timing={"total_s": time.monotonic() - started})
        return sample if counted else replace(sample, thinking_tokens=await self._count(sample.reasoning))

    def _body(self, request: Request) -> dict[str, Any]:
        fields = {"temperature": 0.0, **changed_params(request.params)}  # a server's own default is seldom greedy
        if "logprobs" in fields:
            fields["logprobs"] = True
        if not self._endpoint.thinking_fields:
            fields = {name: value for name, value in fields.items() if name in _STANDARD}
        body = {"model": self._endpoint.model, "messages": list(request.prompt), **fields, **self._endpoint.body}
        return {name: value for name, value in body.items() if value is not None}

    async def _count(self, text: str) -> int:
        """Tokens of reasoning that came without a count (not every server gives one), by the server's own tokenizer."""
        body = {"model": self._endpoint.model, "prompt": text, "add_special_tokens": False}
        url = self._endpoint.url.rstrip("/").removesuffix("/v1") + "/tokenize"
        try:
            return (await self._client.post(url, body, _count_of))[0]
        except Failed as error:
            raise InputError(
                f"{self._endpoint.url}: replies have reasoning and do not count its tokens, and /tokenize "
                f"does not either ({error}); use a server that gives reasoning_tokens"
            ) from error


def _count_of(reply: Mapping[str, Any]) -> int:
    if not is_whole(reply["count"], 0, 2**53):
        raise ValueError(f"count {shown(reply['count'])}")
    return int(reply["count"])


def _sample(reply: Mapping[str, Any]) -> tuple[Sample, bool]:
    """One choice as a sample, and whether its thinking is counted: False where there is reasoning and no count. Raises
    ValueError for what is not of the type, or not one of the values, that the field has.

    The reasoning is `reasoning_content` or, as newer servers have it, `reasoning`. Token ids, forced positions and why
    thinking ended are there where the server says so.
    """
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    message = choice["message"]
    said = choice.get("thinking") or message.get("thinking")
    thinking = said if isinstance(said, Mapping) else {}
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    answer = message.get("content") or ""
    stop_reason = thinking.get("stop_reason")
    if stop_reason is None and reasoning:
        stop_reason = "natural" if answer else "truncated"
    values = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
    mean = sum(values) / len(values) if values else None
    tokens = thinking.get("tokens", (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))
    fields = {
        "token_ids": choice.get("token_ids") or (),
        "forced": choice.get("forced") or (),
        "reasoning": reasoning.strip(),
        "answer": answer.strip(),
        "finish_reason": choice.get("finish_reason") or "stop",
        "thinking_tokens": tokens or 0,
        "extensions": thinking.get("extensions") or 0,
        "stop_reason": stop_reason,
        "prompt_tokens": usage.get("prompt_tokens") or 0,
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        "completion_tokens": usage.get("completion_tokens") or 0,
        "mean_logprob": mean,
    }
    counts = [fields[name] for name in fields if name.endswith("_tokens") or name == "extensions"]
    if stop_reason not in (None, *get_args(StopReason)) or (mean is not None and not math.isfinite(mean)):
        raise ValueError(f"stop_reason {shown(stop_reason)} or log-probability {shown(mean)}")
    if not all(is_whole(count, 0, 2**53) for count in counts):
        raise ValueError(f"counts of tokens {shown(counts)}")
    try:
        sample = from_values(fields)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    return sample, bool(tokens) or not sample.reasoning
