"""A process that can be killed: it renders and tokenises for model folders whose chat template or regular expressions
have no known bound, and one call may take the time and memory that it is given, and no more."""

import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from engine.errors import InputError

CPU_LIMIT_S, WALL_LIMIT_S, MEMORY_LIMIT_MIB = 4, 7, 1024
"""Of one call. Processor time is what counts, so that a busy machine refuses nothing; the wall's is for what waits."""


class Guarded:
    """Calls into `engine/text/worker.py`. `loaded` is what the process builds first; it starts at the first call, and
    again after one that it did not survive. Threads may share it: one call at a time."""

    def __init__(self, what: str, **loaded: Any) -> None:
        """`what` names in errors what runs there."""
        self._what, self._loaded, self._lock = what, json.dumps({"what": what, **loaded}).encode(), Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, **request: Any) -> Any:
        """The answer to one request. Raises InputError where there is none within the limits, or where it is one."""
        deadline = time.monotonic() + WALL_LIMIT_S
        try:
            line = json.dumps(request, default=_plain).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{self._what} cannot be given this: {error}") from None
        with self._lock:
            process, first = self._process, b""
            if process is None or process.poll() is not None:
                if process is not None:
                    self._end(process)
                process, first = self._start(), self._loaded + b"\n"
            try:
                answer = _exchange(process, first + line + b"\n", deadline)
            except BaseException:  # an interrupt: its answer must not be taken for that of the next call
                self._end(process)
                raise
            if answer is None:
                why = self._end(process)
                raise InputError(f"{self._what} {why}; correct it, or take it from the model's publisher again")
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["value"]

    def _start(self) -> "subprocess.Popen[bytes]":
        limits = map(str, (CPU_LIMIT_S, WALL_LIMIT_S, MEMORY_LIMIT_MIB))
        # By its path: as a module it would import the engine, and with it torch.
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Every thread and arena would be charged with address space.
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "RAYON_NUM_THREADS": "1"},
        )
        self._kill = weakref.finalize(self, _kill, process)
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> str:
        """Kill the process; what is to be said of its last call."""
        status = process.poll()
        self._kill()
        self._process = None
        if status is None or process.returncode in (-27, -14):  # late, or SIGPROF, SIGALRM
            return f"took more than {CPU_LIMIT_S} s of processor time or {WALL_LIMIT_S} s in all"
        return f"ended its process (status {process.returncode}), which may use {MEMORY_LIMIT_MIB} MiB"


def _exchange(process: "subprocess.Popen[bytes]", request: bytes, deadline: float) -> Mapping[str, Any] | None:
    """Send a line and read one; None where the process ends, or the deadline comes, before it is whole."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            parts.append(os.read(process.stdout.fileno(), 1 << 20))
            if not parts[-1]:
                process.wait()
                return None
            if parts[-1].endswith(b"\n"):
                return json.loads(b"".join(parts))
    return None


def _plain(value: Any) -> Any:
    """What JSON has no word for: mappings of the caller's own."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # bytes that it never read
                continue
