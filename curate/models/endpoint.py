"""Models behind an OpenAI-compatible endpoint: bounded concurrency, errors as rows, and an outage that is none."""

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from curate.models.asking import Answer, Ask, EndpointDown, clean, seed_of
from curate.models.client import Client, Failed
from curate.models.endpoint_config import EndpointConfig, api_key
from curate.models.store import Plan, Store

_DOWN = ("connection", "rejected")
"""Kinds that say something about the endpoint and nothing about the question."""


class EndpointModel:
    """A `Model` behind HTTP."""

    def __init__(self, config: EndpointConfig, store: Store) -> None:
        """Raises InputError where the configuration cannot work."""
        self.name, self.identity = config.name or config.model, f"endpoint {config.model}"
        self._config, self._store = config, store
        api_key(config)

    def ask(self, requests: Iterable[Ask]) -> Iterator[Answer]:
        """See `asking.Model`. Calls run on a thread of their own; leaving the iterator early cancels them."""
        plan = self._store.plan(requests, self.identity)
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
            except BaseException as error:  # handed to the caller's thread, which raises it
                answers.put(None if isinstance(error, asyncio.CancelledError) else error)
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
        # Answered with `_DOWN` errors since the last success: kept back, lest an outage be taken for answers.
        suspects: list[tuple[Answer, Ask, int, float]] = []
        successes = 0

        def keep() -> None:
            """Store and hand on what has been kept back."""
            while suspects:
                answer, ask, tries, seconds = suspects.pop(0)
                self._store.put(answer, ask, self.name, tries, seconds)
                answers.put(answer)

        async def worker() -> None:
            nonlocal successes
            for key, (ask, *_) in waiting:
                started = time.monotonic()
                try:
                    answer, tries = await client.post(
                        "/chat/completions",
                        arguments(self._config.model, key, ask),
                        functools.partial(read, id=ask.id, key=key),
                    )
                except Failed as error:
                    answer, tries = Answer(ask.id, key, error=error.kind, detail=str(error)), error.tries
                suspects.append((answer, ask, tries, time.monotonic() - started))
                if answer.error not in _DOWN:
                    successes += 1
                    keep()
                elif len(suspects) >= max(8, self._config.concurrency):
                    raise self._down(suspects)

        try:
            async with Client(self._config) as client, asyncio.TaskGroup() as group:
                for _ in range(min(self._config.concurrency, len(plan.todo))):
                    group.create_task(worker())
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        if suspects and not successes:
            raise self._down(suspects)
        keep()

    def _down(self, suspects: list[tuple[Answer, Ask, int, float]]) -> EndpointDown:
        last = suspects[-1][0]
        return EndpointDown(
            f"{self._config.base_url} answered none of the last {len(suspects)} calls ({last.error}: "
            f"{last.detail}); check that it runs and its address, key and model name, then run the same command again: "
            "what it had answered is kept"
        )


def arguments(model: str, key: str, ask: Ask) -> dict[str, Any]:
    """The call's arguments. Thinking fields that are not OpenAI's go into the body where they are set."""
    sampling = ask.sampling
    return {
        "model": model,
        "messages": [dict(message) for message in ask.messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed_of(key),
        **{name: value for name, value in sampling.changed.items() if "thinking" in name},
    }


def read(response: Mapping[str, Any], id: str, key: str) -> Answer:
    """The answer in a chat completion. Raises AttributeError, LookupError, TypeError or ValueError where it is none."""
    choice, usage = response["choices"][0], response.get("usage") or {}
    message, details = choice["message"], usage.get("completion_tokens_details") or {}
    text, reasoning = message["content"], message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(text, str) or not isinstance(reasoning, str):
        raise ValueError(f"its content is {text!r}")
    return Answer(
        id,
        key,
        clean(text),
        clean(reasoning),
        finish_reason=str(choice["finish_reason"]) if choice.get("finish_reason") else None,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning_tokens=_count(details.get("reasoning_tokens")),
        reported_model=clean(str(response.get("model") or "")),
    )


def _count(value: Any) -> int | None:
    if value is not None and not isinstance(value, int):
        raise ValueError(f"it counts {value!r} tokens")
    return value
