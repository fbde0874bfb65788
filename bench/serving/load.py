"""Load on one server: so many requests at once, or as they arrive by a clock that the server has no part in."""

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bench.serving.stream import Reply, Request, Stream


@dataclass(frozen=True)
class Load:
    """The way in which requests come: closed (the next when one of `concurrency` is over), or open, where `rate`
    requests come in a second whatever becomes of those before."""

    concurrency: int
    rate: float | None = None

    def arrivals(self, count: int, seed: int) -> list[float]:
        """Seconds after the start at which an open loop's requests come: a Poisson process of `rate`, the same for
        the same seed."""
        assert self.rate is not None
        chance = random.Random(seed)
        return list(accumulate(chance.expovariate(self.rate) for _ in range(count)))

    def run(self, port: int, requests: Sequence[Request], seed: int) -> list[Reply]:
        """All of them against the server at `port`, and what came of each, in order."""
        gc.disable()  # a walk over everything that was imported would take a core for a tenth of a second
        try:
            if self.rate is None:
                return asyncio.run(self._closed(port, requests))
            return asyncio.run(self._open(port, requests, self.arrivals(len(requests), seed)))
        finally:
            gc.enable()

    async def _closed(self, port: int, requests: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        left = iter(enumerate(requests))

        async def slot() -> None:
            for number, request in left:
                replies[number] = await Stream.fetch("127.0.0.1", port, request)

        await asyncio.gather(*(slot() for _ in range(self.concurrency)))
        return [replies[number] for number in range(len(requests))]

    async def _open(self, port: int, requests: Sequence[Request], arrivals: Sequence[float]) -> list[Reply]:
        start = time.perf_counter()
        tasks = []
        for request, at in zip(requests, arrivals, strict=True):
            await asyncio.sleep(start + at - time.perf_counter())
            tasks.append(asyncio.create_task(Stream.fetch("127.0.0.1", port, request, start + at)))
        return await asyncio.gather(*tasks)
