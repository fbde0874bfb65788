"""Processes that end with the one that started them: a benchmark that is killed leaves nothing that holds a card."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def ends_with_its_parent() -> None:
    """In a child (`preexec_fn`): it is killed when its parent ends, whichever way (Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of whatever its children leave behind, in whatever group or session (Linux)."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Processes that run below `root`, by /proc; those that have ended are not counted."""
    parents: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry)] = int(parent)
    found: list[int] = []
    level = {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += level
    return found


def kill(pid: int) -> None:
    """Kill a process and take note of its end, as far as it is there and a child of this one."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):  # a grandchild: its parent, or this process, comes to it
        os.waitpid(pid, os.WNOHANG)
