"""A pool of grading processes that can be killed: one answer may take the time and memory it is given, and no more."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

WALL_FACTOR = 10.0
"""Wall time that a comparison may take, in multiples of its processor time: a busy machine must not decide grades."""
GRACE_S = 1.0
"""What the parent waits past the wall limit for a process to end by itself, before it kills."""
LEAST_MB = 200
"""Address space that a process needs to start and to compare anything."""
START_LIMIT_S = 300.0
"""Most seconds a process may take to start; more means that it cannot run here."""


@dataclass(frozen=True)
class Verdict:
    """What a process said of one pair, or why it could not: rules `grader_timeout`, `grader_memory`, `grader_crash`.
    `gold` and `given` are what the two were read as."""

    correct: bool | None
    rule: str
    detail: str
    gold: str = ""
    given: str = ""


class _Worker:
    def __init__(self, time_limit_s: float, memory_limit_mb: int) -> None:
        # This package is importable there from whatever directory the caller works in.
        path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "curate.grading.worker",
                str(time_limit_s),
                str(time_limit_s * WALL_FACTOR),
                str(memory_limit_mb),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what a checker has started ends with it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        self.ready = False
        self.deadline = time.monotonic() + START_LIMIT_S
        self.task: int | None = None

    def send(self, task: int, pair: tuple[str, ...], time_limit_s: float) -> None:
        self.task, self.deadline = task, time.monotonic() + time_limit_s * WALL_FACTOR + GRACE_S
        assert self.process.stdin is not None
        # Had it died between two tasks, its closed output says so at the next select.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # bytes that it never read
                    pipe.close()


class Pool(contextlib.AbstractContextManager["Pool", None]):
    """`workers` processes, started at first need. Use it as a context manager; none is left after it."""

    def __init__(self, workers: int, time_limit_s: float, memory_limit_mb: int) -> None:
        if memory_limit_mb < LEAST_MB:
            raise ValueError(f"memory_limit_mb is {memory_limit_mb}; a grading process needs {LEAST_MB} MiB")
        self._size, self._time_limit, self._memory_limit = workers, time_limit_s, memory_limit_mb
        self._workers: list[_Worker] = []

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every process."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers there are now."""
        return tuple(worker.process.pid for worker in self._workers)

    def run(self, pairs: Sequence[tuple[str, ...]]) -> list[Verdict]:
        """Compare every (reference, answer) pair, or ask the function of every (`module.function`, answer, reference or
        "", question); verdicts in their order.

        Raises:
            RuntimeError: a process cannot start, as where mpmath is missing.
        """
        verdicts: dict[int | None, Verdict] = {}
        waiting = list(range(len(pairs)))[::-1]
        try:
            while len(self._workers) < min(self._size, len(pairs)):
                self._workers.append(_Worker(self._time_limit, self._memory_limit))
            while len(verdicts) < len(pairs):
                for worker in self._workers:
                    if worker.ready and worker.task is None and waiting:
                        task = waiting.pop()
                        worker.send(task, pairs[task], self._time_limit)
                for worker in self._wait():
                    answered, verdict = self._read(worker)
                    if verdict is not None:
                        unjudged = len(pairs[answered or 0]) == 4 and verdict.rule.startswith("grader_")
                        # A function that fails or is stopped has not judged.
                        verdicts[answered] = replace(verdict, correct=None) if unjudged else verdict
                    if worker.process.returncode is not None:
                        self._workers[self._workers.index(worker)] = _Worker(self._time_limit, self._memory_limit)
        except BaseException:
            self.close()
            raise
        return [verdicts[task] for task in range(len(pairs))]

    def _wait(self) -> list[_Worker]:
        """Workers with something to read or past their deadline."""
        with selectors.DefaultSelector() as selector:
            active = [worker for worker in self._workers if worker.task is not None or not worker.ready]
            for worker in active:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            nearest = min(worker.deadline for worker in active)
            found = [key.data for key, _ in selector.select(max(0.0, nearest - time.monotonic()))]
        now = time.monotonic()
        return found + [worker for worker in active if worker.deadline <= now and worker not in found]

    def _read(self, worker: _Worker) -> tuple[int | None, Verdict | None]:
        """(task, verdict) of a worker that answered, ended or is late; it is killed in the last two cases."""
        task, worker.task = worker.task, None
        assert worker.process.stdout is not None
        late = worker.deadline <= time.monotonic()
        # A verdict is one short line, written at once: where there is a byte, the line is there.
        with selectors.DefaultSelector() as selector:
            selector.register(worker.process.stdout, selectors.EVENT_READ)
            line = worker.process.stdout.readline() if selector.select(0) else b""
        if line:
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:
                worker.kill()
                return task, Verdict(False, "grader_crash", f"the process said {line[:80]!r}")
            if message.get("ready"):
                worker.ready = True
                return None, None
            if message["rule"] == "grader_memory":
                worker.kill()
            return task, Verdict(**message)
        worker.kill()
        if task is None:
            raise RuntimeError(
                f"a grading process did not start (exit status {worker.process.returncode}); install mpmath "
                "(pip install 's1-engine[curate]')"
            )
        if late or worker.process.returncode in (-signal.SIGPROF, -signal.SIGALRM):
            return task, Verdict(False, "grader_timeout", f"stopped after {self._time_limit:g} s of processor time")
        return task, Verdict(False, "grader_crash", f"the process ended with status {worker.process.returncode}")
