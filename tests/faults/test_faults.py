"""Every cell of the table in docs/faults.md: a program is disturbed in the middle of its work, and goes on."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.faults.programs import FORKS, PROGRAMS, Descriptor, Program, child, done
from tests.faults.promises import DOCUMENT, FAULTS, PROMISES, QUICK, Promise, written

LIMIT_S = 200.0
"""Seconds after which a program that takes one or two has stopped working."""
CELLS = [
    pytest.param(name, fault, id=f"{name}-{fault}", marks=[] if (name, fault) in QUICK else pytest.mark.slow)
    for fault, promises in PROMISES.items()
    for name in promises
]


def test_the_document_has_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == written(DOCUMENT.read_text(encoding="utf-8"))
    assert len(CELLS) >= 40 and set(FAULTS) == set(PROMISES) == {*DISTURB, "pipe"}


class Run:
    """A run of a program in a folder of its own."""

    def __init__(self, program: Program, command: list[str], folder: Path) -> None:
        self.program, self.command, self.folder = program, command, folder
        self.errors = folder.parent / "errors"
        self.log = folder / program.log

    def start(self, again: bool = False, stdout: int | None = None, stderr: int | None = None) -> BaseProcess:
        """The program as a process; `again`: to go on with what is there."""
        arguments = [*self.command, *self.program.place(self.folder, again)]
        with (self.folder.parent / "output").open("wb") as output, self.errors.open("wb") as errors:
            out = Descriptor(output.fileno() if stdout is None else stdout)
            err = Descriptor(errors.fileno() if stderr is None else stderr)
            process = FORKS.Process(target=child, args=(self.program.name, arguments, out, err))
            process.start()
        return process

    def said(self) -> str:
        """Standard error."""
        return self.errors.read_text(encoding="utf-8")

    def freeze(self, process: BaseProcess, at: int) -> None:
        """Stop the process as soon as `at` results are there; it must not have ended before."""
        deadline = time.monotonic() + LIMIT_S
        while done(self.program, self.folder) < at:
            assert process.is_alive(), f"ended by itself, with {process.exitcode}: {self.said()[-2000:]}"
            assert time.monotonic() < deadline, f"has not come to {at} results: {self.said()[-2000:]}"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
            time.sleep(0.001)
        assert process.is_alive(), "ended before it could be disturbed"

    def finish(self, process: BaseProcess) -> int:
        """The exit code."""
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail(f"hangs: {self.said()[-2000:]}")
        return process.exitcode


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[str], Path, Any, int]]:
    """By program: how it is called, the folder of its inputs, what a whole run leaves, and how many results those are.
    Made once, when first asked for."""
    made: dict[str, tuple[list[str], Path, Any, int]] = {}

    def of(name: str) -> tuple[list[str], Path, Any, int]:
        if name not in made:
            program, home = PROGRAMS[name], tmp_path_factory.mktemp(name)
            (home / "inputs").mkdir()
            command = program.write(home / "inputs")
            (home / "run").mkdir()
            run = Run(program, command, home / "run")
            assert run.finish(run.start()) == 0, run.said()[-2000:]
            made[name] = command, home / "inputs", program.content(run.folder), done(program, run.folder)
        return made[name]

    return of


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs; the file limit stands for the full disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "fault"), CELLS)
def test_a_fault_loses_nothing(name: str, fault: str, tmp_path: Path, undisturbed: Any) -> None:
    command, inputs, whole, total = undisturbed(name)
    program, promise, source = PROGRAMS[name], PROMISES[fault][name], random.Random(f"{name} {fault}")
    home = tmp_path / "home"
    home.mkdir()
    (home / "inputs").symlink_to(inputs)
    (home / "run").mkdir()
    run = Run(program, command, home / "run")
    at = source.randint(total // 6 + 2, total // 2)
    if fault == "pipe":
        _unread(run, at)
    elif fault == "full disk":
        with small_disk(run.folder):
            _disturbed(run, fault, at, promise)
            assert run.finish(run.start(again=True)) == 0, run.said()[-2000:]
            assert program.content(run.folder) == whole
        return
    else:
        _disturbed(run, fault, at, promise)
    if fault == "kill twice":
        _disturbed(run, fault, min(at + total // 4, total - 2), promise, again=True)
    assert run.finish(run.start(again=True)) == 0, run.said()[-2000:]
    assert program.content(run.folder) == whole


def _disturbed(run: Run, fault: str, at: int, promise: Promise, again: bool = False) -> None:
    """Start it, disturb it once `at` results are there, see that the promise is kept, and take the fault away."""
    process = run.start(again)
    run.freeze(process, at)
    before = dict(run.program.finished(run.folder))
    undo = DISTURB[fault](run, process) or (lambda: None)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
        if fault == "interrupt twice":
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
    code, said = run.finish(process), run.said()
    if promise.codes is not None:
        assert code in promise.codes, said[-2000:]
        assert "Traceback" not in said, said[-3000:]
        last = said.strip().splitlines()[-1:] or [""]
        assert promise.says in last[0], said[-2000:]
    undo()
    after = run.program.finished(run.folder)
    assert promise.lost or before.items() <= dict(after).items(), f"{len(before)} before, {len(after)} after"


def _signals(*numbers: int) -> Callable[[Run, BaseProcess], None]:
    def send(run: Run, process: BaseProcess) -> None:
        for number in numbers:
            os.kill(process.pid, number)

    return send


def _stop(run: Run, process: BaseProcess) -> None:
    time.sleep(0.3)


def _torn(run: Run, process: BaseProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    log = run.log.with_name(run.log.name + "-wal") if run.program.name == "curate" else run.log
    with log.open("ab") as file:
        file.write(b'{"index": 1, "out')


def _full(run: Run, process: BaseProcess) -> Callable[[], None]:
    ballast = run.folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12):
            try:
                while file.write(b"\0" * block) == block:
                    pass
            except OSError:
                pass
    return ballast.unlink


def _limited(run: Run, process: BaseProcess) -> None:
    log = run.log.with_name(run.log.name + "-wal") if run.program.name == "curate" else run.log
    limit = 20_000 if run.program.name == "sft" else log.stat().st_size + 10
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _starved(run: Run, process: BaseProcess) -> None:
    size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _removed(run: Run, process: BaseProcess) -> None:
    run.log.unlink()


def _replaced(run: Run, process: BaseProcess) -> Callable[[], None]:
    run.log.unlink()
    run.log.write_text("precious\n")

    def undo() -> None:
        assert run.log.read_text() == "precious\n"
        (beside,) = (
            p for p in run.folder.iterdir() if re.fullmatch(re.escape(run.log.name) + r"\.[0-9a-f]{8}", p.name)
        )
        beside.rename(run.log)

    return undo


def _folder_removed(run: Run, process: BaseProcess) -> None:
    shutil.rmtree(run.folder)


def _folder_moved(run: Run, process: BaseProcess) -> Callable[[], None]:
    moved = run.folder.with_name("moved")
    run.folder.rename(moved)

    def undo() -> None:
        if run.program.name == "curate":  # its answers have been put where they belong; the rest is made again
            return
        shutil.rmtree(run.folder, ignore_errors=True)
        moved.rename(run.folder)

    return undo


def _second(run: Run, process: BaseProcess) -> None:
    second = Run(run.program, run.command, run.folder)
    second.errors = run.errors.with_name("errors of the second")
    for again in (False, True):
        assert second.finish(second.start(again)) == 2
        (line,) = second.said().splitlines()
        assert f"another process ({process.pid}) is writing it" in line


def _unread(run: Run, at: int) -> None:
    """Nobody reads its output (generate's lines, evaluate's report) or its messages any more."""
    reads, writes = os.pipe()
    if run.program.name == "generate":
        to_pipe = Run(replace(run.program, place=lambda folder, again: ["--output", "-"]), run.command, run.folder)
        process = to_pipe.start(stdout=writes)
        with open(reads, "rb") as lines:
            assert all(lines.readline().endswith(b"}\n") for _ in range(at))
    else:
        os.close(reads)
        process = run.start(stdout=writes, stderr=None if run.program.name == "evaluate" else writes)
    os.close(writes)
    assert run.finish(process) == 1 and "Traceback" not in run.said()


DISTURB: dict[str, Callable[[Run, BaseProcess], Callable[[], None] | None]] = {
    "kill": _signals(signal.SIGKILL),
    "kill twice": _signals(signal.SIGKILL),
    "torn": _torn,
    "stop": _stop,
    "terminate": _signals(signal.SIGTERM),
    "interrupt": _signals(signal.SIGINT),
    "interrupt twice": _signals(signal.SIGINT),
    "full disk": _full,
    "file limit": _limited,
    "memory": _starved,
    "removed": _removed,
    "replaced": _replaced,
    "folder removed": _folder_removed,
    "folder moved": _folder_moved,
    "two writers": _second,
}
