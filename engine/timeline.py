"""Where the time of a start went: from the process's first moment to its first token, one line for each thing done."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lap:
    """One thing done."""

    name: str
    seconds: float
    bytes: int = 0
    """What it read, wrote or made; 0 where nothing counts."""
    peak_bytes: int = 0
    """Most memory that was resident at its end or before."""


class Timeline:
    """Laps, one behind the other. `started`: when the first begins, by `time.perf_counter`; by default, now."""

    def __init__(self, started: float | None = None) -> None:
        self._last = time.perf_counter() if started is None else started
        self.laps: list[Lap] = []

    @classmethod
    def of_process(cls) -> "Timeline":
        """From when the system started this process, where it tells (Linux, to a hundredth of a second)."""
        stat = Path("/proc/self/stat")
        if not stat.exists():
            return cls()
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # field 22, counted from the boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter() - age)

    def lap(self, name: str, size: int = 0, at: float | None = None) -> None:
        """What was done since the last lap, until `at` (now, where it is left out), and how many bytes it was about."""
        now = time.perf_counter() if at is None else at
        self.laps.append(Lap(name, now - self._last, size, peak_bytes()))
        self._last = now

    def lines(self) -> list[str]:
        """A table: what, seconds, seconds since the beginning, peak of memory, bytes, rate."""
        rows, total = [("start-up", "s", "at s", "peak MB", "", "")], 0.0
        for lap in self.laps:
            total += lap.seconds
            size = f"{lap.bytes / 1e6:,.1f} MB" if lap.bytes else ""
            rate = f"{lap.bytes / 1e9 / max(lap.seconds, 1e-9):,.2f} GB/s" if lap.bytes else ""
            rows.append((lap.name, f"{lap.seconds:.3f}", f"{total:.3f}", f"{lap.peak_bytes / 1e6:,.0f}", size, rate))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join((row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True)))).rstrip()
            for row in rows
        ]


def peak_bytes() -> int:
    """Most memory that this process had resident, mapped files included; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
