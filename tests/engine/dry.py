"""An engine's core on a card that is not there: scheduler and tables are real, what a step draws is made up."""

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.build import build_core
from engine.config import EngineConfig
from engine.core import Core
from engine.errors import InputError
from engine.messages import Event
from engine.prepare import Preparer
from engine.ranks.group import Group
from engine.request import SamplingParams
from engine.schedule.scheduler import Step
from engine.schedule.sequence import Admission
from engine.step.graphs import Capture, StepKey
from engine.step.launched import Launched
from engine.step.slots import StepTables
from engine.text.tokenizer import Tokenizer
from kernels.dry_run import CUDA, DryRun, Graph, Trace
from kernels.thinking import Finish, Record
from tests.kernels import launch_contracts

DRAWN = 17
"""The token that every row draws."""


class DryCore:
    """A core inside `dry`. Every launch is held against its contract, and every replay against what Python would do
    now: a difference is something that the captured step does not know of."""

    def __init__(self, dry: DryRun, folder: Path, group: Group | None = None, **options: Any) -> None:
        self.dry = dry
        config = EngineConfig(model=str(folder), device="cuda", **options)
        tokenizer = Tokenizer.load(folder)
        if group is not None:
            dry.answer(options["kv_cache_tokens"] // config.page_size)  # the ranks agree on a number of pages
        self.core: Core = build_core(config, folder, tokenizer, group or Group.single(CUDA))
        self.context = self.core.runner.tables.machine.history.shape[1] - 1
        self._preparer = Preparer(tokenizer, "s1", self.context)
        self._number = 0
        self._copies = 1
        self._key: StepKey | None = None
        self.replayed: Trace | None = None
        """What the last captured step that was replayed does."""
        self._checked = 0
        runner, graphs = self.core.runner, self.core.runner._graphs
        self._launch, runner.launch = runner.launch, self._answered
        if graphs is not None:
            self._get, graphs.get = graphs.get, self._noted
            dry.replayed = self._replayed

    def add(self, prompt: Seq[int], params: SamplingParams) -> None:
        """Queue a request."""
        prepared = self._preparer.prepare(list(prompt), params)
        if params.logprobs is not None:
            self._copies = 4  # the token's own, the best, and which they are
        self.core.apply(Admission(self._number, prepared, self._number))
        self._number += 1

    def step(self) -> list[Event]:
        """One step of the loop; its launches are checked, and that the host waits for its results alone."""
        counts = self.dry.counts
        copied, waits, graphs = counts.to_host, counts.waits, counts.graphs
        events = self.core.step()
        assert counts.to_host <= copied + self._copies, "more than the results came back"
        assert counts.waits == waits or counts.graphs > graphs, "the host waited, not to capture anew"
        self.check()
        return events

    def run(self) -> int:
        """Steps until nothing is left; how many."""
        steps = 0
        while self.core.has_work:
            self.step()
            steps += 1
        self.core.check()
        return steps

    def check(self) -> None:
        """Hold the launches since the last call against their contracts."""
        launches = self.dry.counts.launches
        for launch in launches[self._checked :]:
            launch_contracts.check(launch)
        self._checked = len(launches)

    def _answered(self, step: Step) -> Launched:
        """The device would fill the pinned buffer while the host goes on."""
        launched = self._launch(step)
        if launched._result is not None:
            for row, sequence in enumerate(launched.rows):
                record = launched._result.records[row]
                record.zero_()
                record[Record.TOKEN] = DRAWN
                record[Record.FINISH] = Finish.LENGTH if sequence.length >= sequence.limit else Finish.RUNNING
        return launched

    def _noted(self, key: StepKey, tables: StepTables) -> Capture:
        self._key = key
        return self._get(key, tables)

    def _replayed(self, graph: Graph) -> None:
        runner, key = self.core.runner, self._key
        assert key is not None
        self.replayed, launches = graph.trace, len(self.dry.counts.launches)
        with self.dry.tracing() as now:
            runner._captured(key, runner.tables.for_step(key.needs))
        assert graph.trace.difference(now) is None, f"{key} is stale: {graph.trace.difference(now)}"
        del self.dry.counts.launches[launches:]


class DryGroup(Group):
    """One of `size` ranks whose partners are not there: sums are its own part, what it gathers are copies of it."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(0, 1, CUDA)
        self.rank, self.size = rank, size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather_last_dim(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * self.size, -1)

    def agree(self, error: InputError | None) -> None:
        if error is not None:
            raise error
