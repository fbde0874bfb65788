"""The engines behind the server, and what the server knows of them: tokenizer, limits, what runs."""

import asyncio
import contextlib
import secrets
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from engine.config import EngineConfig
from engine.errors import EngineDead
from engine.prepare import Preparer
from engine.prompt_logprobs import PromptLogprobs
from engine.replicas.replicas import Replicas
from engine.request import Logprob, Prompt, SamplingParams
from engine.schedule.sequence import Prepared
from engine.scoring import ScoreCache, Scores, Scoring
from engine.serve.errors import HttpError
from engine.serve.running import Running
from engine.text.tokenizer import Tokenizer

T = TypeVar("T")


class State(Enum):
    """Of the server."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Service:
    """Everything here runs on one event loop, tokenising on threads beside it."""

    def __init__(self, config: EngineConfig, directory: Path, base: SamplingParams, replicas: int) -> None:
        """`base`: what a request has that says nothing. Raises InputError where the machine cannot be shared out."""
        self.config, self.directory, self.base = config, directory, base
        self.replicas = Replicas(config, replicas)
        self.state = State.LOADING
        self.live: dict[str, Running] = {}
        """By the identities that clients know."""
        self._scored = ScoreCache()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="prepare")

    async def load(self, over: Callable[[EngineDead], None]) -> None:
        """Start the engines. Raises InputError for a model that cannot be used, EngineDead where one does not start."""
        self.tokenizer = await self.beside(partial(Tokenizer.load, self.directory))
        ready = await self.replicas.start(over)
        self.context, self.scores, self.lines = ready.context, ready.scores, ready.lines
        config = self.config
        self.preparer = Preparer(
            self.tokenizer, config.thinking_format, self.context, config.max_samples, config.max_logprobs
        )
        if self.state is State.LOADING:
            self.state = State.READY

    async def beside(self, work: Callable[[], T]) -> T:
        """Run `work` on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def prepare(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Prepared]:
        """Check a request. Raises InputError naming the field."""
        if self.scores:
            raise HttpError(400, "the model gives scores and draws no tokens; use /v1/score or /pooling")
        return await self.beside(lambda: [self.preparer.prepare(prompt, params) for prompt in prompts])

    @contextlib.asynccontextmanager
    async def run(
        self, prepared: Sequence[Prepared], prefix: str, owner: bytes, streams: bool
    ) -> AsyncIterator[Running]:
        """Queue the prompts of one request, to be ended with the block. Raises Full and EngineDead."""
        running = Running(f"{prefix}-{secrets.token_hex(16)}", owner, self.tokenizer, streams)
        self.live[running.identity] = running
        try:
            for one in prepared:
                self.replicas.submit(
                    one, partial(running.ticket, one, self.replicas.tell), room=len(prepared) - len(running.tickets)
                )
            yield running
        finally:
            del self.live[running.identity]
            running.abort()

    async def score(
        self,
        prompt: Prompt,
        steps: Sequence[str | Sequence[int]],
        mark: str | int | None = None,
        labels: Sequence[str | int] = (),
    ) -> Scores:
        """As `engine.engine.Engine.score`."""

        def check() -> tuple[array, tuple[int, ...], tuple[int, ...]]:
            return *self.preparer.steps(prompt, steps, mark), self.preparer.labels(labels, self.scores)

        ids, reads, chosen = await self.beside(check)
        scoring = Scoring(self._scored, ids, reads, chosen, self.replicas.tell)
        if scoring.missing:
            prepared = await self.beside(partial(self.preparer.scored, ids, scoring.missing, chosen))
            self.replicas.submit(prepared, partial(scoring.queued, prepared=prepared))
        return await _finished(scoring)

    async def prompt_logprobs(self, prompts: Sequence[Prompt], top: int) -> list[list[Logprob]]:
        """Of each prompt, as `engine.engine.Engine.prompt_logprobs`. Raises Full and EngineDead."""
        asked = [asyncio.ensure_future(self._prompt_logprobs(prompt, top)) for prompt in prompts]
        try:
            return await asyncio.gather(*asked)
        finally:
            for one in asked:
                one.cancel()

    async def _prompt_logprobs(self, prompt: Prompt, top: int) -> list[Logprob]:
        prepared = await self.beside(partial(self.preparer.followed, prompt, top))
        found = PromptLogprobs(prepared, self.replicas.tell)
        if prepared.reads:
            self.replicas.submit(prepared, found.queued)
        return await _finished(found)

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and an engine is there for them."""
        return self.state is State.READY and any(one is not None and one.dead is None for one in self.replicas.all)


async def _finished(asked: "Awaited[T]") -> T:
    """What was asked for, which is aborted where nobody waits for it any more."""
    waiting = asyncio.wrap_future(asked.future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        waiting.add_done_callback(lambda ended: ended.exception())  # that it was aborted is no news
        asked.abort()
        raise


class Awaited(Protocol[T]):
    """Something of the engine's that comes at once and whole."""

    @property
    def future(self) -> Future[T]: ...
    def abort(self) -> None: ...
