"""The real server as a process, on a port that it chooses."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Self

import httpx2

START_S = 120.0


class RunningServer:
    """`python -m engine.serve` with some flags. What it says on standard error is kept in `said`."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None, ready: bool = True) -> None:
        """Returns once it takes requests, or, without `ready`, at once."""
        self.said: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.serve", "--port", "0", *flags],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if ready:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises AssertionError, with what it said, where it does not come up."""
        self.url = self.wait_for(r"is served at (\S+)")[1]

    def wait_for(self, pattern: str, within: float = START_S) -> re.Match[str]:
        """The first match in what it says. Raises AssertionError where none comes."""
        with self._news:
            if self._news.wait_for(lambda: self._found(pattern) or not self._reader.is_alive(), within):
                found = self._found(pattern)
                if found is not None:
                    return found
        raise AssertionError(f"{pattern} was not said: {self.said}")

    def get(self, path: str) -> httpx2.Response:
        """One reply."""
        return httpx2.get(self.url + path, timeout=60)

    def post(self, path: str, body: object) -> httpx2.Response:
        """One reply."""
        return httpx2.post(self.url + path, json=body, timeout=60)

    def kill(self, pid: int) -> None:
        """End one of its engines."""
        os.kill(pid, signal.SIGKILL)

    def stop(self, signals: Sequence[int] = (signal.SIGTERM,), within: float = 60) -> int:
        """Tell it to end, and wait; returns its exit code."""
        for number in signals:
            self.process.send_signal(number)
        try:
            return self.process.wait(within)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _found(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.said if (found := re.search(pattern, line))), None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.said.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()
