"""`python -m bench.startup`: from the shell to `--help` and to the first token, and the most memory it takes.

Every start is a process of its own, as a shell would start it; the files that it reads are in the system's cache after
the first, which is not counted, and so is the modules' bytecode, which is kept even where the caller's environment says
that none is (`PYTHONDONTWRITEBYTECODE` compiles torch's sources at every start: 1.5 s more). A figure is the median
over the rounds. `torch` alone is started beside them: what no command that computes can be below. With `--beside`,
another checkout of this repository is started in turn.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from bench import record
from bench.command import Output, check, columns, command
from engine.errors import InputError, shown
from engine.model.checkpoint import resolve

_FROM = """import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
root, module, *words = sys.argv[1:]
sys.path.insert(0, root)
sys.argv[:] = [module, *words]
runpy.run_module(module, run_name="__main__", alter_sys=True)"""
"""Runs a module of a checkout, whichever one is installed."""

_TIMED = """import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.read(1)
first = time.perf_counter() - begun
process.stdout.read()
said = process.stderr.read().decode(errors="replace").strip()[-200:]
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, said, first, time.perf_counter() - begun, usage.ru_maxrss * 1.024e-3]))"""
"""Starts a program and tells what it took: in a small process, since what it starts begins with that one's peak."""


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """What to start."""

    model: tuple[str, ...] = ("s1-nano",)
    """Checkpoints, each as PATH or NAME=PATH: what the records call it."""
    rounds: int = 5
    beside: Path | None = None
    """The root of another checkout, started in turn with this one."""
    beside_library: Path | None = None
    """Its native library, which `cmake` builds there."""

    def __post_init__(self) -> None:
        check(
            self.rounds < 1 and "rounds starts at 1",
            (self.beside_library is not None and self.beside is None) and "--beside-library needs --beside",
            (self.beside is not None and not (self.beside / "engine").is_dir())
            and f"--beside {self.beside} has no engine/; give the root of a checkout",
        )


@dataclass(frozen=True)
class Start:
    """What one start took."""

    first_s: float
    """to the first byte on standard output"""
    end_s: float
    peak_MB: float


def start(words: Sequence[str], **environment: str) -> Start:
    """Run a Python program to its end. Raises InputError with its last line where it fails."""
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TIMED, sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | environment,
    )
    code, said, *figures = json.loads(told.stdout)
    if code:
        raise InputError(f"{shown(' '.join(words[-6:]))} ended with {code}: {said}")
    return Start(*figures)


def main(options: Options) -> None:
    """Start everything in turn, round after round; print and append what each took."""
    cases: dict[str, Sequence[str]] = {"--help": ("--help",)}
    for given in options.model:
        name, _, path = given.rpartition("=")
        resolve(path)
        cases[name or Path(path).name] = ("--model", path, "--prompt", "What is 3 + 4?", "--max-tokens", "8")
    runs: dict[tuple[str, str], Callable[[], Start]] = {("import torch", ""): partial(start, ["-c", "import torch"])}
    for case, words in cases.items():
        runs[case, ""] = partial(start, ["-m", "engine.generate", *words])
        if options.beside is not None:
            before = ["-P", "-c", _FROM, str(options.beside.resolve()), "engine.generate", *words]
            library = (
                {} if options.beside_library is None else {"S1_CPU_LIBRARY": str(options.beside_library.resolve())}
            )
            runs[case, "before_"] = partial(start, before, **library)
    taken: dict[tuple[str, str], list[Start]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        for key, run in runs.items():
            one = run()
            if turn:
                taken[key].append(one)
    table = columns("start", "first byte, s", "end, s", "MB", "before: first byte, s", "end, s", "MB", title="start-up")
    write = partial(record.Machine.read(torch.device("cpu")).write, options.output, "startup")
    for case in ("import torch", *cases):
        figures = {
            f"{side}{name}": statistics.median(getattr(one, name) for one in starts)
            for (what, side), starts in taken.items()
            for name in ("first_s", "end_s", "peak_MB")
            if what == case
        }
        table.add_row(case, *(f"{value:.3g}" for value in figures.values()))
        write({"start": case}, figures)
    Console().print(table)


if __name__ == "__main__":
    command(Options, main)
