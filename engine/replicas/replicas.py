"""Several engines of one model behind one door: who gets a request, and what happens when one of them ends."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from engine.config import EngineConfig
from engine.errors import EngineDead, InputError, refuse, tell
from engine.messages import Command, End
from engine.open_requests import Holder
from engine.replicas.prefixes import Prefixes, page_keys
from engine.replicas.replica import Replica
from engine.replicas.wire import Ready
from engine.schedule.sequence import Admission, Prepared

_Held = TypeVar("_Held", bound=Holder)
_TRIES = 3
"""Starts in a row that may fail before a replica is given up."""


class Full(InputError):
    """No replica has room for another request."""


class Replicas:
    """`count` engines. Everything here runs on one event loop."""

    def __init__(self, config: EngineConfig, count: int) -> None:
        """Raises InputError where the machine cannot be shared out."""
        self.config, self.count = config, count
        self._places = [_share(config, index, count) for index in range(count)]
        self._prefixes = [Prefixes() for _ in range(count)]
        self.all: list[Replica | None] = [None] * count
        """Those that are loaded; None while one is not."""
        self.restarts = 0
        self._numbers = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self, over: Callable[[EngineDead], None]) -> Ready:
        """Start all and wait for them; from then on whoever ends is started again, or, where it is the only one or
        does not come up, `over` is told. Raises InputError and EngineDead as `Replica.start`; the context of the
        returned `Ready` is the least one's."""
        self._over = over
        started = [Replica(*place) for place in self._places]
        try:
            ready = await asyncio.gather(*(one.start() for one in started))
        except BaseException:
            for one in started:
                one.kill()
            raise
        self.all[:] = started
        self._tasks = [asyncio.create_task(self._keep(index, one)) for index, one in enumerate(started)]
        return min(ready, key=lambda one: one.context)

    def submit(
        self, prepared: Prepared, make: Callable[[int], _Held], place: int | None = None, room: int = 1
    ) -> _Held:
        """Queue a checked request with the replica that has computed most of its prompt, unless that has much more to
        do than another; among equals with the one that has least to do, and least in its cache. `make` gets its number;
        `place` is what it draws by where it has no seed.

        Raises Full where `room` more requests than are open are more than `max_waiting`, EngineDead where no replica is
        there.
        """
        alive = [(index, one) for index, one in enumerate(self.all) if one is not None and one.dead is None]
        if not alive:
            raise EngineDead("no engine runs: it is being started again; try later")
        total = sum(len(one.open) for _, one in alive)
        if total + room > self.config.max_waiting:
            raise Full(f"{total} requests are open, and max_waiting is {self.config.max_waiting}; try later")
        keys = page_keys(prepared.prompt, self.config.page_size) if len(alive) > 1 else []
        least = min(len(one.open) for _, one in alive)
        spare = [(i, one) for i, one in alive if len(one.open) < least + self.config.max_num_seqs]
        index, chosen = max(
            spare,
            key=lambda each: (self._prefixes[each[0]].known(keys), -len(each[1].open), -len(self._prefixes[each[0]])),
        )
        self._prefixes[index].sent(keys)
        self._numbers += 1
        number = self._numbers
        return chosen.submit(number, prepared, number if place is None else place, make)

    def tell(self, command: Command) -> None:
        """Tell the replica that has the request; where it is over, nobody."""
        assert not isinstance(command, Admission), "submit it"
        for one in self.all:
            if one is not None and command.request_id in one.open:
                one.tell(command)

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return sum(len(one.open) for one in self.all if one is not None)

    def fail(self, error: EngineDead) -> None:
        """Whoever waits is told that nothing will come."""
        for one in self.all:
            if one is not None:
                for number in list(one.open):
                    one.open.pop(number).fail(error)
                    one.tell(End(number))

    async def close(self) -> None:
        """End all processes; what runs is aborted."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(one.close() for one in self.all if one is not None))

    async def _keep(self, index: int, replica: Replica | None) -> None:
        """Run a replica and, when it ends, another in its place."""
        while replica is not None:
            self.all[index] = replica
            error = await replica.run()
            if self._closing:
                return
            self.all[index], self._prefixes[index] = None, Prefixes()
            tell(f"replica {index}: {error}")
            replica = self._over(error) if self.count == 1 else await self._another(index)

    async def _another(self, index: int) -> Replica | None:
        """Started in the place of one that has ended; None where it does not come up."""
        error: Exception | None = None
        for tried in range(_TRIES):
            await asyncio.sleep(tried)
            replica = Replica(*self._places[index])
            try:
                await replica.start()
            except (InputError, EngineDead) as failed:
                error = failed
                continue
            self.restarts += 1
            return replica
        return self._over(EngineDead(f"replica {index} does not start: {error}"))


def _share(config: EngineConfig, index: int, count: int) -> tuple[EngineConfig, Mapping[str, str]]:
    """Configuration and environment of one of `count` replicas: GPUs of its own, or a share of the threads."""
    if count == 1:
        return config, {}
    if config.device == "cpu" or not _visible_gpus():
        return config, {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count))}
    gpus, size = _visible_gpus(), config.tensor_parallel_size
    refuse(
        (config.device not in ("auto", "cuda"), f"device is {config.device} and there are {count} replicas; give cuda"),
        (
            len(gpus) < count * size,
            f"data_parallel_size {count} times tensor_parallel_size {size} needs {count * size} GPUs and {len(gpus)} "
            "are visible; lower one of them",
        ),
    )
    own = gpus[index * size : (index + 1) * size]
    return replace(config, device="cuda"), {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def _visible_gpus() -> list[str]:
    """Names of the GPUs that processes of this one may use, without a driver's help."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name.strip()]
    try:
        return [str(number) for number in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
