"""Fuzzing of everything that comes from outside: `make fuzz MINUTES=10`.

    python -m tests.fuzz --minutes 10 [--only "chat template"] [--workers 2]

Each target runs in a process of its own with bounded memory, and one that hangs or dies is a finding as well as one
that raises. What failed is kept in .hypothesis/fuzz, and run first the next time. Exit code 1: there are findings.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import checkpoint
from tests.fuzz.explore import KEPT, explore
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Share the time out among the targets; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", choices=[target.name for target in TARGETS])
    arguments = parser.parse_args()
    waiting = [target for target in TARGETS if target.name in (arguments.only or [target.name])]
    many = len(waiting)
    seconds = 60 * arguments.minutes * min(arguments.workers, many) / many
    running: dict[int, Explorer] = {}
    findings = 0
    while waiting or running:
        while waiting and len(running) < arguments.workers:
            explorer = Explorer(waiting.pop(0), seconds)
            running[explorer.pid] = explorer
        pid, status = os.wait()
        findings += running.pop(pid).end(status)
    print(f"{many} targets, {findings} findings")
    return 1 if findings else 0


class Explorer:
    """A process that explores one target: forked, so that nothing is imported twice."""

    def __init__(self, target: Target, seconds: float) -> None:
        self.target, self.started = target, time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.pid = os.fork()
        if self.pid == 0:
            log = os.open(self.folder / "log", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            tempfile.tempdir = str(self.folder)
            checkpoint.forget()
            explore(target, seconds)

    def end(self, status: int) -> int:
        """Tell what came of it; returns the number of findings."""
        name, seconds = self.target.name, time.monotonic() - self.started
        log = (self.folder / "log").read_text(errors="backslashreplace")
        shutil.rmtree(self.folder, ignore_errors=True)
        if status == 0 and "FINDING" not in log:
            print(f"{name:22} {log.strip().splitlines()[-1]}, {seconds:.0f} s", flush=True)
            return 0
        kept = ", ".join(map(str, sorted(Path(KEPT, name).glob("killed-*"))))
        died = (
            f"FINDING: the process ended with status {os.waitstatus_to_exitcode(status)} ({kept})\n" if status else ""
        )
        print(f"{name:22} {died}{log[-4000:]}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
