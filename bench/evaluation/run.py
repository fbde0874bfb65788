"""Running a grid: jobs kept going on a backend, rows into the log as samples finish, and on again after a kill."""

import queue
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from bench.evaluation import reuse, searching, tasks
from bench.evaluation.ballot import Booth
from bench.evaluation.engine_backend import EngineBackend
from bench.evaluation.grid import Grid
from bench.evaluation.jobs import Job, Setting, jobs
from bench.evaluation.log import Key, Log
from bench.evaluation.methods import Condition
from bench.evaluation.samples import Backend, Sample
from bench.evaluation.search_plan import RewardModel
from bench.evaluation.search_rewards import Rewards, model_config
from bench.record import Machine
from curate.grading.grade import Grader
from curate.models.local import engine_config
from curate.progress import Bars
from engine import Engine, InputError
from engine.errors import tell
from engine.model.checkpoint import resolve
from engine.model.fingerprint import fingerprint

RETRIES = 2
"""Times that a sample is asked for again after an error; then its row says so and counts as wrong."""


def run(grid: Grid, folder: Path) -> None:
    """Run what of the grid is not in `folder` yet. Raises InputError where it cannot, before anything is generated."""
    check_endpoint(grid)
    loaded = [tasks.load(spec) for spec in grid.tasks]
    for task in filter(lambda task: task.note, loaded):
        print(f"note: task {task.name}: {task.note}", file=sys.stderr)
    families, alone = sharing(grid)
    about = {"name": grid.title, **vars(Machine.read(torch.device("cpu")))}
    with Log(folder, identity(grid, loaded), about) as log:
        for warning in log.warnings:
            tell(warning, "warning")
        keys = list(wanted(loaded, grid.conditions()))
        done = sum(key in log for key in keys)
        if done == len(keys):
            print(f"nothing to run: {folder} holds every sample", file=sys.stderr)
            return
        bar = Bars(Console(stderr=True)).bar(grid.title, len(keys) - done)
        with _backend(grid) as backend, bar as advance:
            _tell_context(grid, backend)
            setting = Setting(log, backend, grid.prompt, grid.system, grid.seed)
            drawn = [condition for condition in alone if condition.search is None]
            searched = [condition for condition in alone if condition.search is not None]
            with _searches(setting, loaded, searched) as found:
                for written in chain(drive(jobs(setting, loaded, drawn, families), backend), found):
                    advance(written)


def _tell_context(grid: Grid, backend: Backend) -> None:
    """Limits beyond the model's context are the context's; whoever reads a table must know."""
    if isinstance(backend, EngineBackend):
        context = backend.engine.context
        beyond = [c.label for c in grid.conditions() if (c.params.max_tokens or 0) > context]
        if beyond:
            more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
            tell(
                f"the model's context is {context:,} tokens, and {beyond[0]!r}{more} may take more with question and "
                "answer; what does not fit is cut there",
                "note",
            )


@contextmanager
def _backend(grid: Grid) -> Iterator[Backend]:
    if grid.endpoint is None:
        format = {} if grid.thinking_format is None else {"thinking_format": grid.thinking_format}
        with Engine(grid.model, **format | grid.engine) as engine:
            yield EngineBackend(engine)
    else:
        from bench.evaluation.endpoint import EndpointBackend  # openai is slow to import

        with EndpointBackend(grid.endpoint) as backend:
            yield backend


@contextmanager
def _searches(
    setting: Setting, loaded: Sequence[tasks.Task], conditions: Sequence[Condition]
) -> Iterator[Iterator[int]]:
    """The searches of a run, with the reward models that they need; those that cannot be used are refused here."""
    left = [c for c in conditions if any(key not in setting.log for key in wanted(loaded, [c]))]
    if not left:
        yield iter(())
        return
    assert isinstance(setting.backend, EngineBackend)  # a grid with an endpoint has no searches
    engine = setting.backend.engine
    with Rewards(engine, [c.search.reward for c in left if c.search]) as rewards, Grader() as grader:
        room = searching.Room(setting, engine, rewards, Booth(grader))
        for condition in left:
            searching.root(room, searching.Place(loaded[0], loaded[0].problems[0], 0), condition)
        yield searching.run_all(room, loaded, left)


def sharing(grid: Grid) -> tuple[list[reuse.Family], list[Condition]]:
    """The families of conditions that share a trace, and the conditions that run by themselves."""
    conditions = grid.conditions()
    return reuse.families(conditions) if grid.reuse and grid.endpoint is None else ([], list(conditions))


def identity(grid: Grid, loaded: Sequence[tasks.Task]) -> dict[str, Any]:
    """Everything that decides what a run's tokens are, as JSON values."""
    engine = engine_config(grid.model, grid.engine) if grid.endpoint is None else None
    return {
        "grid": {name: value for name, value in msgspec.to_builtins(grid).items() if name != "name"},
        "engine": engine.decisive if engine else None,
        "model": fingerprint(resolve(grid.model), engine.adapter) if engine else None,
        "tasks": {task.name: task.sha256 for task in loaded},
        **_rewards(grid),
    }


def _rewards(grid: Grid) -> dict[str, Any]:
    """What decides the scores of a grid's reward models, by their paths; nothing where it has none."""
    specs = [c.search.reward for c in grid.conditions() if c.search and isinstance(c.search.reward, RewardModel)]
    if not specs:
        return {}
    policy = engine_config(grid.model, grid.engine)
    configs = [model_config(spec, policy.device, policy.dtype) for spec in specs]
    return {
        "rewards": [
            {
                "model": config.model,
                "engine": config.decisive,
                "fingerprint": fingerprint(resolve(config.model), config.adapter),
            }
            for config in dict.fromkeys(configs)
        ]
    }


def wanted(loaded: Sequence[tasks.Task], conditions: Sequence[Condition]) -> Iterator[Key]:
    """The keys of all samples of a grid."""
    return (
        Key(task.name, problem.id, condition.label, index)
        for task in loaded
        for condition in conditions
        for problem in task.problems
        for index in range(condition.samples)
    )


def drive(work: Iterator[Job], backend: Backend) -> Iterator[int]:
    """Keep enough jobs open that the backend is never idle; yields after each that ends what it returned.

    Raises whatever ended the backend. The first job is started before any other, so what is wrong with all shows at
    once.
    """
    finished: queue.SimpleQueue[tuple[_Open, int, Sample | BaseException]] = queue.SimpleQueue()
    open_requests = 0
    while True:
        job = next(work, None) if open_requests < 2 * backend.slots else None
        if job is not None:
            entry = _Open(job, backend, finished)
            open_requests += entry.go_on(None)
        elif not open_requests:
            return
        else:
            entry, at, result = finished.get()
            if isinstance(result, BaseException):
                raise result
            if result.error is not None and entry.tries[at] < RETRIES:
                entry.tries[at] += 1
                entry.submit(at)
                continue
            open_requests -= 1
            entry.samples[at] = result
            if None in entry.samples:
                continue
            open_requests += entry.go_on(entry.samples)
        if entry.written is not None:
            yield entry.written


class _Open:
    """A job that waits for samples."""

    def __init__(self, job: Job, backend: Backend, finished: queue.SimpleQueue[Any]) -> None:
        self.job, self.backend, self.finished = job, backend, finished
        self.written: int | None = None
        """What the job returned; None: it has not ended."""

    def submit(self, at: int) -> None:
        self.backend.submit(self.requests[at], lambda result: self.finished.put((self, at, result)))

    def go_on(self, samples: Sequence[Any] | None) -> int:
        """Give the job its samples and submit what it asks for next; returns how many requests that is."""
        try:
            self.requests = self.job.send(samples)  # type: ignore[arg-type]
        except StopIteration as end:
            self.written = end.value
            return 0
        self.samples: list[Sample | None] = [None] * len(self.requests)
        self.tries = [0] * len(self.requests)
        for at in range(len(self.requests)):
            self.submit(at)
        return len(self.requests)


def check_endpoint(grid: Grid) -> None:
    """Raises InputError where the grid asks an endpoint for what only the engine in this process can do."""
    forced = next((c.label for c in grid.conditions() if not c.label.startswith("no ")), None)
    if grid.endpoint is not None and not grid.endpoint.thinking_fields and forced is not None:
        raise InputError(
            f"condition {forced!r} forces thinking, and endpoint.thinking_fields is false; "
            "use method none, or a server that takes these fields"
        )
