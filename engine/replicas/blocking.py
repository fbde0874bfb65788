"""Several engines for a caller that waits: what a run over a file needs of `engine.engine.Engine`, on an own loop."""

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from engine.config import EngineConfig
from engine.errors import EngineDead
from engine.handle import Handle
from engine.messages import Command
from engine.replicas.replicas import Replicas
from engine.schedule.sequence import Prepared
from engine.text.tokenizer import Tokenizer

T = TypeVar("T")


class ReplicatedEngine:
    """`count` engines of one model. Requests of one that ends fail; another takes its place for those that follow."""

    def __init__(self, config: EngineConfig, tokenizer: Tokenizer, count: int) -> None:
        """Starts them and waits until all are loaded. Raises InputError for what cannot be used, EngineDead where one
        does not start."""
        self.config, self.tokenizer = config, tokenizer
        self._dead: EngineDead | None = None
        self._loop = asyncio.new_event_loop()
        self._replicas = Replicas(config, count)
        self._thread = threading.Thread(target=self._loop.run_forever, name="replicas", daemon=True)
        self._thread.start()
        try:
            self._ready = self._wait(self._replicas.start(self._over))
        except BaseException:
            self.close()
            raise
        self.context = self._ready.context
        """Most tokens a request may hold."""

    def submit_prepared(self, prepared: Prepared, place: int | None = None) -> Handle:
        """Queue a checked request; see `Engine.submit_prepared`."""
        return self._wait(self._submit(prepared, place))

    def start_lines(self) -> list[str]:
        """What one of them says of itself, and how many there are."""
        return [f"{self._replicas.count} engines, each:", *self._ready.lines]

    def stats(self) -> dict[str, int]:
        """Counters, summed."""
        total: Counter[str] = Counter()
        for replica in self._replicas.all:
            total.update(replica.stats if replica is not None else {})
        return dict(total)

    def close(self) -> None:
        """Abort what runs and end the processes. Calling it again does nothing."""
        if self._loop.is_running():
            self._wait(self._replicas.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> "ReplicatedEngine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _submit(self, prepared: Prepared, place: int | None) -> Handle:
        if self._dead is not None:
            raise self._dead
        return self._replicas.submit(prepared, partial(self._handle, prepared), place)

    def _handle(self, prepared: Prepared, number: int) -> Handle:
        return Handle(number, prepared, self.tokenizer, self._tell)

    def _tell(self, command: Command) -> None:
        self._loop.call_soon_threadsafe(self._replicas.tell, command)

    def _over(self, error: EngineDead) -> None:
        self._dead = error

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except BaseException:
            waiting.cancel()
            raise
