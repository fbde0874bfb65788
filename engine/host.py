"""A loaded model and the ranks that it leads: commands in, a step, events out.

What calls `turn` again and again is a loop: `engine.engine` has one on a thread, `engine.replicas.worker` is a process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from engine.build import build_core, check_config, check_weights, resolve_device
from engine.capabilities import limits_of, start_lines
from engine.config import EngineConfig
from engine.core import Core
from engine.errors import InputError, tell
from engine.messages import Command, Event, decode_commands, encode_commands
from engine.model.config import ModelConfig
from engine.model.generation_config import default_params
from engine.ranks.group import Group, from_env
from engine.ranks.spawn import spawn_ranks
from engine.ranks.torchrun import torchrun
from engine.step.clock import StepTime
from engine.text.tokenizer import Tokenizer
from engine.timeline import Timeline, peak_bytes
from kernels.limits import UNKNOWN


class Host:
    """Rank 0 of a model. On other ranks the constructor serves rank 0 until that closes, then leaves the process."""

    def __init__(self, config: EngineConfig, directory: Path, tokenizer: Tokenizer, timeline: Timeline) -> None:
        """Load the checkpoint in `directory`. Raises InputError for what cannot be used."""
        self.config, self.directory = config, directory
        # Whatever needs no weights is refused before a process is started.
        check_config(config, directory, tokenizer)
        self.model = ModelConfig.load(directory, config.dtype, config.device)
        check_weights(config, directory, self.model)
        self.default_params = default_params(directory, config.generation_config)
        """What a request without parameters gets."""
        timeline.lap("configuration")
        self.group = self._join()
        try:
            self.core = self.group.interruptible(
                partial(build_core, config, directory, tokenizer, self.group, timeline)
            )
        except InputError:
            self.group.close()
            raise
        if self.group.rank > 0:
            serve(self.core, self.group)
            self.group.close()
            raise SystemExit(0)
        if warning := tokenizer.end_warning():
            tell(f"{config.model}: {warning}", "warning")

    @property
    def context(self) -> int:
        """Most tokens a request may hold: min(max_model_len, tokens the page pool holds)."""
        return self.core.context

    def use_device(self) -> None:
        """Make the model's device the calling thread's current one, which is each thread's own."""
        if self.group.device.type == "cuda" and self.group.device.index is not None:
            torch.cuda.set_device(self.group.device)

    def turn(self, commands: Sequence[Command], closing: bool = False) -> list[Event]:
        """Carry out `commands` on every rank, then run a step if there is work; the events of what was read. With
        `closing` the other ranks end behind it."""
        if self.group.size > 1:
            self.group.broadcast_bytes(encode_commands(commands, closing))
        for command in commands:
            self.core.apply(command)
        return self.core.step() if self.core.has_work else []

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the page pool as it is."""
        scheduler = self.core.scheduler
        return asdict(scheduler.counters) | {
            "pages_total": scheduler.pool.num_pages - 1,
            "pages_free": scheduler.pool.available,
            "pages_used": scheduler.pool.most_used,
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "graphs": self.core.runner.capture_report.graphs,
        }

    @contextmanager
    def clocked(self) -> Iterator[list[StepTime]]:
        """Inside it, every step that ends is entered in the list, in order."""
        times: list[StepTime] = []
        self.core.clock.times = times
        try:
            yield times
        finally:
            self.core.clock.times = None

    def start_lines(self) -> list[str]:
        """What to tell when the engine starts: the pool and the predicted limit, what capturing took, slow paths."""
        pool, report = self.core.scheduler.pool, self.core.runner.capture_report
        lines = start_lines(self.config, self.model, self.group.device, self.group.size, pool.capacity)
        taken = f"{report.bytes / 2**20:,.0f} MiB, {report.seconds:.1f} s"
        captured = [f"{report.graphs} decode steps captured: {taken}"] if report.graphs else []
        return [*lines[:1], *captured, *lines[1:]]

    def memory_line(self) -> str:
        """The most memory that this process took, beside what the model and the pages written so far must have."""
        limits, pool = limits_of(self.config, self.model, UNKNOWN, self.group.size), self.core.scheduler.pool
        weights, token = (held / self.group.size for held in (limits.resident_bytes, limits.kv_bytes_per_token))
        page = token * self.config.page_size
        return (
            f"peak memory {peak_bytes() / 1e6:,.0f} MB: weights take {weights / 1e6:,.0f} MB and "
            f"{pool.most_used:,} pages of {page / 1e6:.3g} MB were written"
        )

    def check(self) -> None:
        """Raises EngineDead unless every page and slot is accounted for. Call it while nothing runs."""
        self.core.check()

    def _join(self) -> Group:
        device = resolve_device(self.config.device)
        kind = device.partition(":")[0]
        size = torchrun().size
        if size > 1:  # torchrun
            if self.config.tensor_parallel_size not in (1, size):
                raise InputError(
                    f"tensor_parallel_size is {self.config.tensor_parallel_size} and torchrun started "
                    f"{size} ranks; give {size}, or leave it out"
                )
            return from_env(kind)
        if self.config.tensor_parallel_size > 1:
            return spawn_ranks(self.config.tensor_parallel_size, _run_rank, (self.config, self.directory), kind)
        return Group.single(torch.device(device))


def serve(core: Core, group: Group) -> None:
    """The loop of the other ranks: do what rank 0 does, until it closes."""
    closing = False
    while not closing:
        commands, closing = decode_commands(group.broadcast_bytes(None))
        for command in commands:
            core.apply(command)
        if core.has_work:
            core.step()


def _run_rank(group: Group, config: EngineConfig, directory: Path) -> None:
    """What a spawned rank runs."""
    serve(build_core(config, directory, Tokenizer.load(directory), group), group)
