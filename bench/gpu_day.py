"""`python -m bench.gpu_day`: every figure that a GPU at hand for half an hour can give, in order of value.

Each part is a benchmark of its own in a process of its own with a time limit: one that raises, hangs or runs out of
memory costs the others nothing, and when it ends all that it started ends with it. The same command is given again and
again: parts that are done on this card are left out, unfinished ones go on where they can. `--only PART --again` runs
one anew.

`--out` has everything that is worth keeping, at most eight files: results.jsonl (a line as soon as a figure is there),
log.txt, state.json and the tuner's table. What a machine loses between two calls is laid there again: `--state` keeps a
copy on the machine, `--resume-from` takes the files of an earlier call. `--rehearse H100` runs the same plan on a CPU,
with a tiny model in place of each; `--plan` prints it with the minutes that it should take. docs/gpu_day.md says what
to do with an hour.
"""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from bench import ceilings, processes, record, stand_in
from bench.command import check, columns, command
from bench.gpu.files import CACHE, FILES, GEMM_TABLE, KEPT, LOG, MOST_BYTES, MOST_FILES, RESULTS, STATE
from bench.gpu.plan import PLANS, Part
from engine import InputError, whole_file
from engine.commit import commit
from engine.json_file import parse_json
from kernels.limits import known_device

_PATIENCE = 60.0
"""Seconds that a part which resumes is worth starting for."""
_DYING = 20.0
"""Seconds after which a process that was killed is not going to end."""
_LAST_LINES = 25
_TAIL = 1 << 16
"""Bytes of a part's output that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run, for how long, and where its results are."""

    only: tuple[str, ...] = ()
    """Names of parts to run; without them all, in order."""
    again: bool = False
    """Run them from their start, also where they are done."""
    minutes: float = 9.0
    """Most that all parts of this call may take; what does not fit is left for the next one."""
    out: Path = Path("gpu-day")
    """Folder for what is worth keeping; a rehearsal's is gpu-day-rehearsal."""
    state: Path = KEPT
    """Folder on this machine: a copy of the results, Triton's cache; a rehearsal's is one of its own."""
    resume_from: Path | None = None
    """A folder with the files of an earlier call."""
    cache: Path | None = None
    """A folder to begin Triton's cache with."""
    rehearse: Literal["H100", "H200"] | None = None
    """Run the plan of that card on this machine's CPU."""
    plan: Literal["H100", "H200"] | None = None
    """Print the plan for that card, with the minutes that it should take, and end."""
    peer_python: str | None = None
    """The interpreter that has vLLM; without it vLLM is not run."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    part: str
    state: Literal["done", "done before", "failed", "out of time", "stuck", "not started"]
    seconds: float = 0.0
    lines: int = 0
    why: str = ""


class Day:
    """The folder of the results, its copy, and the parts that are done on a card."""

    def __init__(self, options: Options, console: Console, card: str) -> None:
        """Lay out what earlier calls left: lines and finished parts of all; of the other files the machine's own, which
        are never older than what was brought."""
        self.console, self._card = console, card
        self.out, self._kept = options.out.resolve(), options.state.resolve()
        self.results = self.out / RESULTS
        self._kept.mkdir(parents=True, exist_ok=True)
        if options.cache is not None and not (self._kept / CACHE).exists():
            shutil.copytree(options.cache, self._kept / CACHE)
        folders = [folder for folder in (options.resume_from, self._kept, self.out) if folder is not None]
        self._done: dict[str, set[str]] = {}
        for folder in folders:
            for other, names in self._done_in(folder / STATE).items():
                self._done.setdefault(other, set()).update(names)
        self.done = self._done.get(card, set())
        self._write(list(dict.fromkeys(line for folder in folders for line in lines_of(folder / RESULTS))))
        for name in (LOG, STATE, GEMM_TABLE):
            found = [folder / name for folder in folders if (folder / name).exists()]
            if found and found[-1] != self.out / name:
                shutil.copy2(found[-1], self.out / name)

    def mend(self, before: list[bytes]) -> None:
        """Cut off half a line, which a part that was killed may leave: the next begins a line of its own. Whatever a
        part does, the lines that were there `before` it stay."""
        here = lines_of(self.results)
        self._write(here if here[: len(before)] == before else before + [line for line in here if line not in before])

    def _write(self, lines: list[bytes]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        text = b"".join(line + b"\n" for line in lines)
        if text and not (self.results.is_file() and self.results.read_bytes() == text):
            whole_file.write_whole(self.results, text)

    def count(self, done: set[str]) -> None:
        """So many parts are done for good."""
        self.done = self._done[self._card] = done
        whole_file.write_whole(
            self.out / STATE, json.dumps({"done": {card: sorted(parts) for card, parts in self._done.items()}})
        )

    def keep(self) -> None:
        """Copy what there is to the machine's own folder, and hold what comes back to its limits."""
        own, elsewhere = [self.out / name for name in FILES], self._kept / "left out"
        files = sorted(filter(Path.is_file, self.out.rglob("*")), key=lambda path: (path not in own, path))
        extra = files[MOST_FILES:]
        for path in extra:
            elsewhere.mkdir(exist_ok=True)
            shutil.move(path, elsewhere / "-".join(path.relative_to(self.out).parts))
        if extra:
            self.console.print(
                f"{len(extra)} files too many to come back, as {extra[0].name}: {MOST_FILES} can; "
                f"they are in {elsewhere}",
                markup=False,
            )
        log = self.out / LOG
        if log.exists() and log.stat().st_size > MOST_BYTES:  # its end
            log.write_bytes(log.read_bytes()[-MOST_BYTES // 2 :].partition(b"\n")[2])
        for name in FILES:
            self.copy(name)

    def copy(self, name: str) -> None:
        """Copy one file to the machine's own folder, if it is there."""
        if (self.out / name).exists():
            whole_file.write_whole(self._kept / name, (self.out / name).read_bytes())

    def _done_in(self, state: Path) -> dict[str, set[str]]:
        """Names of the parts that are done, by card."""
        try:
            done = parse_json(state.read_bytes())["done"] if state.exists() else {}
            return {str(card): {str(name) for name in names} for card, names in done.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.console.print(f"{state} cannot be read: nothing counts as done by it", markup=False)
            return {}


def lines_of(file: Path) -> list[bytes]:
    """The whole lines of a file of results; what is no JSON, as half a line, is left out."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        with suppress(ValueError):
            found += [line] if isinstance(parse_json(line), dict) else []
    return found


def command_of(part: Part, options: Options, day: Day) -> tuple[list[str], dict[str, str]]:
    """(arguments of `python -m`, environment) of a part."""
    peer = ("vllm", "--peer-python", options.peer_python) if part.peers and options.peer_python is not None else ()
    resume = ("--resume",) if part.resumes and not options.again else ()
    arguments = [part.module, *part.arguments, *peer, "--output", str(day.results), *resume]
    environment = {
        "TRITON_CACHE_DIR": str(options.state.resolve() / CACHE),
        ceilings.FILE: str(day.results),
        "PYTHONUNBUFFERED": "1",
        "S1_GEMM_TABLE": "plain",  # whatever is exported, or in the package's table
        **part.environment,
    }
    if options.rehearse is not None:
        interpreted = {"TRITON_INTERPRET": "1"} if part.module == "bench.gemm" else {}
        environment |= {stand_in.VARIABLE: options.rehearse, "OMP_NUM_THREADS": "2", **interpreted}
    return [word.replace("{out}", str(day.out)) for word in arguments], {
        name: value.replace("{out}", str(day.out)) for name, value in environment.items()
    }


def run_part(part: Part, options: Options, day: Day, left: float) -> Outcome:
    """Run one part, if `left` seconds are worth it; whatever happens to it, its results so far stay."""
    if part.name in day.done:
        return Outcome(part.name, "done before")
    if part.after and part.after not in day.done:
        return Outcome(part.name, "not started", why=f"{part.after} comes first")
    if left < min(part.limit, _PATIENCE if part.resumes else part.limit / 2):
        return Outcome(part.name, "not started", why="out of minutes: give the same command again")
    limit = min(left, part.limit)
    day.console.print(f"[bold]{part.name}[/bold], at most {limit:.0f} s")
    before, start = lines_of(day.results), time.monotonic()
    with (day.out / LOG).open("a+b") as log:
        log.write(f"\n=== {part.name} ===\n".encode())
        log.flush()
        begin, spared = log.tell(), set(processes.descendants(os.getpid()))
        process = _start(*command_of(part, options, day), log.fileno())
        code, size = None, -1
        try:
            while (code := process.poll()) is None and time.monotonic() - start < limit:
                time.sleep(0.05)
                if day.results.is_file() and size < (size := day.results.stat().st_size):
                    day.copy(RESULTS)  # this call may be killed as well
        finally:
            stuck = _end_all(spared)
            day.mend(before)
        log.seek(max(begin, log.seek(0, os.SEEK_END) - _TAIL))
        text = log.read().decode(errors="replace").strip()
    ended = Outcome(part.name, "done", time.monotonic() - start, len(lines_of(day.results)) - len(before))
    if stuck:
        return replace(ended, state="stuck", why=f"processes {sorted(stuck)} cannot be killed, and hold the card")
    if code == 0:
        day.count(day.done | {part.name})
        day.console.print(text, markup=False, highlight=False)
        return ended
    last = text.splitlines()[-_LAST_LINES:] or ["no output"]
    day.console.print("\n".join([f"the last lines of {part.name}:", *last]), markup=False, highlight=False)
    if code is None:
        return replace(ended, state="out of time", why=f"after {limit:.0f} s")
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return replace(ended, state="failed", why=f"{how}: {last[-1][:160]}")


class _Forked(ForkProcess):
    """A child of this process, with what it has imported: a rehearsal's parts need not import torch each."""

    def poll(self) -> int | None:
        return self.exitcode


def _run_here(arguments: list[str], environment: dict[str, str], log: int) -> None:
    processes.ends_with_its_parent()  # no session of its own: some machines end all of a command's session with it
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    sys.argv = arguments
    sys.modules.pop(arguments[0], None)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _start(arguments: list[str], environment: dict[str, str], log: int) -> subprocess.Popen[bytes] | _Forked:
    """Start `python -m` with these arguments, its output going to `log`. In a rehearsal a part is forked off, but for
    what Triton interprets, which is chosen on import."""
    if stand_in.VARIABLE in environment and "TRITON_INTERPRET" not in environment:
        forked = _Forked(target=_run_here, args=(arguments, environment, log))
        forked.start()
        return forked
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        cwd=record.ROOT,
        env=os.environ | environment,
        preexec_fn=processes.ends_with_its_parent,
    )


def _end_all(spared: set[int]) -> set[int]:
    """Kill all descendants of this process but the spared, until there are none: what an ended part leaves behind holds
    memory of the card. Those that do not end, as where a driver hangs."""
    deadline = time.monotonic() + _DYING
    while (left := set(processes.descendants(os.getpid())) - spared) and time.monotonic() < deadline:
        for pid in left:
            processes.kill(pid)
        time.sleep(0.01)
    return left


def run(options: Options, console: Console, parts: tuple[Part, ...], card: str) -> list[Outcome]:
    """All parts within the minutes; what they printed, and what became of each. What is done on another card, or in a
    rehearsal, which is a `card` of its own, is not done on this one."""
    processes.adopt_orphans()
    day, deadline = Day(options, console, card), time.monotonic() + options.minutes * 60
    chosen = [part for part in parts if not options.only or part.name in options.only]
    if options.again:
        day.count(day.done - {part.name for part in chosen})
    outcomes: list[Outcome] = []
    for part in chosen:
        try:
            outcomes.append(run_part(part, options, day, deadline - time.monotonic()))
            day.keep()
        except OSError as error:  # whatever a part has done to the folder is its failure alone
            day.out.mkdir(parents=True, exist_ok=True)
            outcomes.append(Outcome(part.name, "failed", why=f"the folder of the results: {error}"))
        if outcomes[-1].state == "stuck":
            break
    table = columns("part", "", "s", "results", "why", title="", left=(0, 1, 4))
    for outcome in outcomes:
        table.add_row(outcome.part, outcome.state, f"{outcome.seconds:.0f}", str(outcome.lines), escape(outcome.why))
    console.print(table)
    console.print(f"{len(lines_of(day.results))} results in {day.out}")
    return outcomes


def main(options: Options) -> int:
    """Print a plan, or run one; 1 where a part failed."""
    console, name = Console(), options.plan or options.rehearse or record.gpu_name()
    card = known_device(name) if name else None
    if card is None:
        raise InputError(
            f"{name or 'no GPU is here'}: there are plans for {' and '.join(PLANS)}; "
            "give --rehearse H100 to run one on the CPU, or --plan H100 to see it"
        )
    parts = PLANS[card.name]
    if options.plan is not None or options.rehearse is not None:
        from bench.gpu import cost  # imports every benchmark: in a rehearsal once for all parts
    if options.plan is not None:
        print(cost.table(parts, card))
        return 0
    if options.rehearse is not None and (options.out, options.state) == (Options.out, Options.state):
        options = replace(options, out=Path("gpu-day-rehearsal"), state=KEPT.with_name(f"{KEPT.name}-rehearsal"))
    names = [part.name for part in parts]
    unknown = sorted(set(options.only).difference(names))
    check(
        *(
            folder is not None and not folder.is_dir() and f"{flag} {folder} is no folder"
            for flag, folder in (("--resume-from", options.resume_from), ("--cache", options.cache))
        ),
        not 0 < options.minutes < 1e6 and f"--minutes is {options.minutes}; give how long this call may take",
        options.state.resolve().is_relative_to(options.out.resolve())
        and f"--state {options.state} lies in --out, whose files come back; give another",
        unknown != [] and f"--only has {', '.join(unknown)}; parts are {', '.join(names)}",
    )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {options.out} cannot be a folder of results: {error}") from None
    console.print(f"{name}, {record.clocks()} MHz, {record.versions()}, commit {commit()}", highlight=False)
    which = card.name if options.rehearse is None else f"rehearsal of {card.name}"
    return int(any(outcome.state in ("failed", "stuck") for outcome in run(options, console, parts, which)))


if __name__ == "__main__":
    command(Options, main)
