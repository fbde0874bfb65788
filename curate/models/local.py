"""Our engine in process as a model to ask."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from curate.models.asking import Answer, Ask, Plan, Sampling, seed_of
from curate.models.store import Store
from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.engine import Handle
from engine.errors import InputError
from engine.model.checkpoint import resolve

OPEN_PER_SLOT = 4
"""Requests submitted ahead, for each sequence that runs at once: enough to keep every slot busy."""
WHOLE_FILE_BYTES = 64 << 20
"""Weight files up to this size are hashed whole; of larger ones, the header and the size."""


@dataclass(frozen=True)
class LocalConfig:
    """A checkpoint for the engine. `name` is what tables call it; empty: the directory's name."""

    engine: EngineConfig
    name: str = ""


def fingerprint(directory: Path) -> str:
    """16 hex digits of what a checkpoint directory would answer with: configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    described = ("config.json", "tokenizer.json", "tokenizer_config.json")
    for path in sorted(directory.iterdir()):
        if path.name not in described and path.suffix != ".safetensors":
            continue
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(file.read() if size <= WHOLE_FILE_BYTES else file.read(1 << 20))
    return digest.hexdigest()[:16]


def engine_params(sampling: Sampling, key: str) -> SamplingParams:
    """The engine's parameters of a call; every call has a seed of its own, so that order and batch do not matter."""
    fields = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    return SamplingParams(**{**fields, "seed": seed_of(key)})


class LocalModel:
    """A `Model` in this process. The engine starts with the first call that the store does not know."""

    def __init__(self, config: LocalConfig, store: Store) -> None:
        """Raises InputError where the checkpoint cannot be found."""
        directory = resolve(config.engine.model)
        self.name = config.name or directory.name
        # The format decides where thinking ends; nothing else of the configuration changes a response's text.
        self.identity = f"engine {fingerprint(directory)} {config.engine.thinking_format} {config.engine.dtype}"
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
        plan = Plan.make(requests, self.identity, self._store)
        yield from plan.known
        if not plan.todo:
            return
        if self._engine is None:
            self._engine = Engine(config=self._config)
        done: queue.SimpleQueue[Handle] = queue.SimpleQueue()
        running: dict[Handle, str] = {}
        waiting = iter(plan.todo.items())
        exhausted = False
        try:
            while running or not exhausted:
                while not exhausted and len(running) < OPEN_PER_SLOT * self._config.max_num_seqs:
                    following = next(waiting, None)
                    if following is None:
                        exhausted = True
                        break
                    key, asks = following
                    try:
                        prompt = {"messages": [dict(message) for message in asks[0].messages]}
                        handle = self._engine.submit(prompt, engine_params(asks[0].sampling, key))
                    except InputError as error:
                        refused = Answer(asks[0].id, key, error="bad_request", detail=str(error))
                        yield from self._keep(plan, [refused])
                        continue
                    running[handle] = key
                    handle.add_done_callback(done.put)
                if running:
                    ended = [done.get()]
                    while not done.empty():  # those that ended in the same step share a transaction
                        ended.append(done.get())
                    keys = [running.pop(handle) for handle in ended]
                    pairs = zip(ended, keys, strict=True)
                    yield from self._keep(plan, [self._read(h, plan.todo[key][0].id, key) for h, key in pairs])
        finally:
            for handle in running:
                handle.abort()

    def _keep(self, plan: Plan, answers: list[Answer]) -> Iterator[Answer]:
        self._store.put_all([(answer, plan.todo[answer.key][0]) for answer in answers], self.name)
        for answer in answers:
            yield from plan.answers(answer)

    def _read(self, handle: Handle, id: str, key: str) -> Answer:
        """The answer of a finished request. Raises EngineDead where the engine ended before it."""
        output = handle.result()
        sample, usage = output.outputs[0], output.usage
        answer = Answer(
            id,
            key,
            sample.answer,
            sample.reasoning,
            sample.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            sample.thinking.tokens,
            self._config.model,
        )
        if sample.finish_reason in ("error", "abort"):
            return replace(answer, finish_reason=None, error="engine", detail=sample.error or sample.finish_reason)
        return answer


def engine_config(values: dict[str, object]) -> EngineConfig:
    """EngineConfig from a mapping. Raises ValueError naming unknown fields or wrong types."""
    known = asdict(EngineConfig())
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of an engine model; known: name, {', '.join(sorted(known))}")
    try:
        return msgspec.convert(values, EngineConfig)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
