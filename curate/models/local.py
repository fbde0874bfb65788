"""Our engine in process as a model to ask."""

import json
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec

from curate.models.asking import Answer, Ask, Sampling, seed_of
from curate.models.store import Plan, Store
from engine import SamplingParams
from engine.config import EngineConfig
from engine.errors import InputError
from engine.model.checkpoint import resolve
from engine.model.fingerprint import fingerprint
from engine.struct_file import to_struct

if TYPE_CHECKING:
    from engine import Engine, Handle

OPEN_PER_SLOT = 4
"""Requests submitted ahead, for each sequence that runs at once: enough to keep every slot busy."""


@dataclass(frozen=True)
class LocalConfig:
    """A checkpoint for the engine. `name` is what tables call it; empty: the directory's name."""

    engine: EngineConfig
    name: str = ""
    """What tables call it; empty: the directory's name."""


def identity(config: EngineConfig) -> str:
    """What decides the engine's responses: the checkpoint's contents, and the fields that they may depend on.

    Raises InputError where the checkpoint cannot be found.
    """
    return f"engine {fingerprint(resolve(config.model), config.adapter)} {json.dumps(config.decisive, sort_keys=True)}"


def engine_params(sampling: Sampling, key: str) -> SamplingParams:
    """The engine's parameters of a call; every call has a seed of its own, so that order and batch do not matter."""
    return SamplingParams(**{**msgspec.structs.asdict(sampling), "seed": seed_of(key)})


class LocalModel:
    """A `Model` in this process. The engine starts with the first call that the store does not know."""

    def __init__(self, config: LocalConfig, store: Store) -> None:
        """Raises InputError where the checkpoint cannot be found."""
        self.name = config.name or resolve(config.engine.model).name
        self.identity = identity(config.engine)
        self._config, self._store = config.engine, store
        self._engine: Engine | None = None

    @property
    def started(self) -> bool:
        """Whether the engine runs: not before a call that the store does not know."""
        return self._engine is not None

    def close(self) -> None:
        """End the engine. Calling it again does nothing."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def ask(self, requests: Iterable[Ask]) -> Iterator[Answer]:
        """See `asking.Model`. Leaving the iterator early aborts what runs."""
        plan = self._store.plan(requests, self.identity)
        yield from plan.known
        if not plan.todo:
            return
        if self._engine is None:
            from engine import Engine  # brings torch, which a run that the store answers does without

            self._engine = Engine(config=self._config)
        done: queue.SimpleQueue[Handle] = queue.SimpleQueue()
        running: dict[Handle, tuple[str, str]] = {}
        waiting = deque(plan.todo.items())
        try:
            while running or waiting:
                while waiting and len(running) < OPEN_PER_SLOT * self._config.max_num_seqs:
                    key, (ask, *_) = waiting.popleft()
                    try:
                        handle = self._engine.submit(
                            {"messages": [dict(message) for message in ask.messages]},
                            engine_params(ask.sampling, key),
                        )
                    except InputError as error:
                        yield from self._keep(plan, [Answer(ask.id, key, error="bad_request", detail=str(error))])
                        continue
                    running[handle] = ask.id, key
                    handle.add_done_callback(done.put)
                if running:
                    ended = [done.get()]
                    while not done.empty():  # those that ended in the same step share a transaction
                        ended.append(done.get())
                    yield from self._keep(plan, [self._read(handle, *running.pop(handle)) for handle in ended])
        finally:
            for handle in running:
                handle.abort()

    def _keep(self, plan: Plan, answers: list[Answer]) -> Iterator[Answer]:
        self._store.put_all([(answer, plan.todo[answer.key][0]) for answer in answers], self.name)
        for answer in answers:
            yield from plan.answers(answer)

    def _read(self, handle: "Handle", id: str, key: str) -> Answer:
        """The answer of a finished request. Raises EngineDead where the engine ended before it."""
        output = handle.result()
        sample, usage = output.outputs[0], output.usage
        failed = sample.finish_reason in ("error", "abort")
        return Answer(
            id,
            key,
            sample.answer,
            sample.reasoning,
            None if failed else sample.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            sample.thinking.tokens,
            self._config.model,
            "engine" if failed else None,
            str(sample.error or sample.finish_reason) if failed else "",
        )


def engine_config(model: str, values: Mapping[str, Any], *beside: str) -> EngineConfig:
    """The configuration of an engine for `model`. Raises InputError naming unknown fields or wrong types.

    `beside` are fields that may stand where `values` come from and that the caller has taken out.
    """
    known = {field.name for field in fields(EngineConfig)} - {"model"}
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"engine: unknown field {unknown[0]!r}; known: {', '.join(sorted(known.union(beside)))}")
    return to_struct({"model": model, **values}, EngineConfig)
