"""Steps that need one another, two at a time, each in a process of its own; what is done is not done again.

A step owns the folder `<out>/<name>/` and is done when `done.json` lies there with its key: a hash of its settings and
of the keys of what it needs. A killed step begins again in its folder, where trainer and evaluation go on by
themselves; one whose settings are others than before begins from nothing.
"""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import ends_with_its_parent
from engine.errors import EngineDead
from engine.whole_file import write_whole

LOG_LINES = 12
"""Of a failed step, on the console."""


@dataclass(frozen=True)
class Step:
    """What is done, once everything in `needs` is."""

    name: str
    minutes: float
    """Of one core, as measured once; for the plan and the time left."""
    work: Callable[["Place"], None]
    settings: Mapping[str, Any]
    """Whatever decides the result, as JSON values."""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a step works, and where those before it did."""

    out: Path
    name: str

    @property
    def folder(self) -> Path:
        """The step's own."""
        return self.out / self.name

    def of(self, name: str) -> Path:
        """The folder of another step."""
        return self.out / name


@dataclass
class Steps:
    """All steps, in an order in which each comes behind what it needs."""

    all: Sequence[Step]
    out: Path
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for step in self.all:
            told = [step.name, step.settings, [self.keys[need] for need in step.needs]]
            self.keys[step.name] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def seconds(self, step: Step) -> float | None:
        """What a finished step took; None: it is not done, or not with these settings."""
        found = self._mark(step)
        return found["seconds"] if found is not None and found.get("key") == self.keys[step.name] else None

    def _mark(self, step: Step) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            return json.loads((self.out / step.name / "done.json").read_text())
        return None

    def only(self, stems: Sequence[str]) -> "Steps":
        """The steps whose names are `stems`, with or without a seed behind them, and what these need."""
        known = {step.name: step for step in self.all}
        missing = [name for name in known if name in stems or name.rpartition("-")[0] in stems]
        wanted: set[str] = set()
        while missing:
            name = missing.pop()
            wanted.add(name)
            missing += known[name].needs
        return Steps([step for step in self.all if step.name in wanted], self.out)

    def table(self) -> list[str]:
        """A line for each step: what it took, or how long it took once."""
        took = [(step, self.seconds(step)) for step in self.all]
        return [
            f"{step.name:24} {f'done, {seconds:.0f} s' if seconds is not None else f'{step.minutes:.1f} min'}"
            for step, seconds in took
        ]

    def left(self) -> list[Step]:
        """Steps that are not done."""
        return [step for step in self.all if self.seconds(step) is None]

    def perform(self, name: str) -> None:
        """Do one step, in this process."""
        step = next(step for step in self.all if step.name == name)
        folder, begun = self.out / name, self.out / name / "begun"
        if folder.exists() and not (begun.exists() and begun.read_text() == self.keys[name]):
            stale = folder.with_name(f".{name}.stale")  # a folder that is half removed must not be taken for one begun
            shutil.rmtree(stale, ignore_errors=True)
            folder.rename(stale)
            shutil.rmtree(stale)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(begun, self.keys[name])
        started = time.perf_counter()
        step.work(Place(self.out, name))
        done = {"key": self.keys[name], "seconds": round(time.perf_counter() - started, 1)}
        write_whole(folder / "done.json", json.dumps(done) + "\n")

    def run(self, command: Callable[[str], Sequence[str]], workers: int, tell: Callable[[str], None]) -> None:
        """Do what is left, each by `command(name)`; raises EngineDead with the end of its log where one fails."""
        waiting, running = self.left(), dict[str, subprocess.Popen[bytes]]()
        total = len(self.all)
        try:
            while waiting or running:
                open_ = {step.name for step in waiting} | running.keys()
                ready = [step for step in waiting if not {*step.needs} & open_]
                for step in ready[: workers - len(running)]:
                    waiting.remove(step)
                    running[step.name] = self._start(step, command(step.name))
                ended = [name for name, process in running.items() if process.poll() is not None]
                for name in ended:
                    self._check(name, running.pop(name).returncode)
                    rest = sum(step.minutes for step in self.left())
                    took = self.seconds(next(step for step in self.all if step.name == name)) or 0.0
                    left = f" · about {rest / workers:.0f} minutes left" if rest >= 1 else ""
                    tell(f"[{total - len(waiting) - len(running)}/{total}] {name}: {took:.0f} s{left}")
                if not ended:
                    time.sleep(0.2)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()

    def _start(self, step: Step, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        logs = self.out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{step.name.replace('/', '-')}.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=ends_with_its_parent)

    def _check(self, name: str, code: int) -> None:
        step = next(step for step in self.all if step.name == name)
        if code == 0 and self.seconds(step) is not None:
            return
        log = self.out / "logs" / f"{name.replace('/', '-')}.txt"
        print(*log.read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)
        raise EngineDead(f"step {name} ended with code {code}; all that it said is in {log}, the same command goes on")


def python(module: str, *words: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *words]
