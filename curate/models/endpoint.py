"""Models behind an OpenAI-compatible endpoint: bounded concurrency, retries with jitter and a limit, errors as rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import openai
from openai import AsyncOpenAI
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from curate.models.asking import Answer, Ask, EndpointDown, Plan, Sampling, clean, seed_of
from curate.models.store import Store


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model is and how hard it may be asked."""

    model: str
    """The name the endpoint knows it by."""
    base_url: str
    """Such as https://host/v1."""
    name: str = ""
    """What tables call it; empty: `model`."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty: none is needed."""
    concurrency: int = 16
    """Calls in flight at most."""
    timeout_s: float = 600.0
    """Seconds of one try."""
    max_tries: int = 6
    first_wait_s: float = 1.0
    """Wait before the second try; doubles with every further one. Up to as much again is added at random."""
    longest_wait_s: float = 60.0


class _Failed(Exception):
    """One try that failed: its kind (a key of `asking.ERRORS`), and the seconds that the endpoint asks to wait."""

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(clean(detail))
        self.kind, self.wait_s = kind, wait_s


_FINAL = ("bad_request", "rejected")
"""Kinds that another try cannot mend."""
_DOWN = ("connection", "rejected")
"""Kinds that say something about the endpoint and nothing about the question."""


class EndpointModel:
    """A `Model` behind HTTP."""

    def __init__(self, config: EndpointConfig, store: Store) -> None:
        """Raises ValueError where the configuration cannot work."""
        for name in ("concurrency", "max_tries"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}; give at least 1")
        if config.api_key_env and config.api_key_env not in os.environ:
            raise ValueError(f"api_key_env names {config.api_key_env}, which is not set; export it or leave it out")
        self.name, self.identity = config.name or config.model, f"endpoint {config.model}"
        self._config, self._store = config, store
        self._key = os.environ.get(config.api_key_env, "") or "none"  # the client refuses an empty one
        # Answered with `_DOWN` errors since the last success: kept back, lest an outage be taken for answers.
        self._suspects: list[tuple[Answer, Ask, int, float]] = []
        self._successes = 0

    def ask(self, requests: Iterable[Ask]) -> Iterator[Answer]:
        """See `asking.Model`. Calls run on a thread of their own; leaving the iterator early cancels them."""
        plan = Plan.make(requests, self.identity, self._store)
        yield from plan.known
        if not plan.todo:
            return
        answers: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._ask_all(plan, answers))

        def run() -> None:
            try:
                loop.run_until_complete(work)
                answers.put(None)
            except asyncio.CancelledError:
                answers.put(None)
            except BaseException as error:  # handed to the caller's thread, which raises it
                answers.put(error)
            finally:
                loop.close()

        thread = threading.Thread(target=run, name=f"calls to {self.name}", daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield from plan.answers(answer)
        finally:
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it closed in between: nothing is left to cancel
                    loop.call_soon_threadsafe(work.cancel)
            thread.join()

    async def _ask_all(self, plan: Plan, answers: queue.SimpleQueue[Any]) -> None:
        waiting = iter(plan.todo.items())
        self._suspects.clear()
        self._successes = 0
        client = AsyncOpenAI(
            base_url=self._config.base_url, api_key=self._key, timeout=self._config.timeout_s, max_retries=0
        )

        async def worker() -> None:
            for key, asks in waiting:
                started = time.monotonic()
                answer, tries = await self._ask_one(client, key, asks[0])
                for each, ask, count, seconds in self._settle(answer, asks[0], tries, time.monotonic() - started):
                    self._store.put(each, ask, self.name, count, seconds)
                    answers.put(each)

        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(min(self._config.concurrency, len(plan.todo))):
                    group.create_task(worker())
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        if self._suspects and not self._successes:
            raise self._down()
        for answer, ask, tries, seconds in self._suspects:
            self._store.put(answer, ask, self.name, tries, seconds)
            answers.put(answer)

    def _settle(self, answer: Answer, ask: Ask, tries: int, seconds: float) -> list[tuple[Answer, Ask, int, float]]:
        """What may be stored now: nothing while the endpoint seems to be down, else this answer and all kept back."""
        self._suspects.append((answer, ask, tries, seconds))
        if answer.error in _DOWN:
            if len(self._suspects) >= max(8, self._config.concurrency):
                raise self._down()
            return []
        self._successes += 1
        ready = self._suspects[:]
        self._suspects.clear()
        return ready

    def _down(self) -> EndpointDown:
        last = self._suspects[-1][0]
        return EndpointDown(
            f"{self._config.base_url} answered none of the last {len(self._suspects)} calls ({last.error}: "
            f"{last.detail}); check that it runs and its address, key and model name, then run the same command again: "
            "what it had answered is kept"
        )

    async def _ask_one(self, client: AsyncOpenAI, key: str, ask: Ask) -> tuple[Answer, int]:
        """(the answer or the error of the last try, tries)."""
        first, longest = self._config.first_wait_s, self._config.longest_wait_s
        jitter = wait_exponential(multiplier=first, max=longest) + wait_random(0, first)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = error.wait_s if isinstance(error, _Failed) else 0.0
            return max(jitter(state), min(asked, longest))

        tries = 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._config.max_tries),
            wait=wait,
            reraise=True,
            retry=retry_if_exception(lambda e: isinstance(e, _Failed) and e.kind not in _FINAL),
        )
        try:
            async for attempt in retrying:
                with attempt:
                    tries += 1
                    return await self._try(client, key, ask), tries
        except _Failed as error:
            return Answer(ask.id, key, error=error.kind, detail=str(error)), tries
        raise AssertionError("tenacity neither returned nor raised")

    async def _try(self, client: AsyncOpenAI, key: str, ask: Ask) -> Answer:
        """One call. Raises _Failed with what became of it."""
        try:
            async with asyncio.timeout(self._config.timeout_s):  # the client's own is per read, not for all
                response = await client.chat.completions.create(**arguments(self._config.model, key, ask))
            return read(response, ask.id, key)
        except (openai.APITimeoutError, TimeoutError):
            raise _Failed("timeout", f"no response within {self._config.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            status = error.status_code
            kind = "rate_limit" if status == 429 else "server" if status >= 500 else "bad_request"
            kind = "rejected" if status in (401, 403, 404) else kind
            kind = "timeout" if status == 408 else kind
            after = error.response.headers.get("retry-after", "")
            wait_s = float(after) if after.replace(".", "", 1).isdigit() else 0.0
            raise _Failed(kind, f"status {status}: {error.message}"[:300], wait_s) from None
        except openai.APIResponseValidationError as error:
            raise _Failed("garbage", str(error)[:300]) from None
        except openai.APIConnectionError as error:
            raise _Failed("connection", f"{error}: {error.__cause__}"[:300]) from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _Failed("garbage", f"no chat completion: {error}"[:300]) from None


def arguments(model: str, key: str, ask: Ask) -> dict[str, Any]:
    """The call's arguments. Thinking fields that are not OpenAI's go into the body where they are set."""
    sampling, defaults = ask.sampling, Sampling()
    extra = {
        name: getattr(sampling, name)
        for name in Sampling.__struct_fields__
        if "thinking" in name and getattr(sampling, name) != getattr(defaults, name)
    }
    return {
        "model": model,
        "messages": [dict(message) for message in ask.messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed_of(key),
        **({"extra_body": extra} if extra else {}),
    }


def read(response: Any, id: str, key: str) -> Answer:
    """The answer in a chat completion. Raises AttributeError, LookupError, TypeError or ValueError where it is none."""
    choice = response.choices[0]
    text = choice.message.content
    reasoning = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None) or ""
    if not isinstance(text, str) or not isinstance(reasoning, str):
        raise ValueError(f"its content is {text!r}")
    usage = response.usage
    details = getattr(usage, "completion_tokens_details", None)
    return Answer(
        id,
        key,
        clean(text),
        clean(reasoning),
        finish_reason=str(choice.finish_reason) if choice.finish_reason else None,
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
        reasoning_tokens=_count(getattr(details, "reasoning_tokens", None)),
        reported_model=clean(str(response.model or "")),
    )


def _count(value: Any) -> int | None:
    if value is not None and not isinstance(value, int):
        raise ValueError(f"it counts {value!r} tokens")
    return value
