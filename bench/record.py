"""One result: what ran, on what, and the figures. A line of JSON per result; every table is a view of such lines."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch

from bench import stand_in
from engine.commit import commit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
_PACKAGES = ("torch", "triton", "transformers", "numpy", "tokenizers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of `bench/results/`. `figures` has units in its keys (`step_ms`, `read_GBps`)."""

    benchmark: str
    case: Mapping[str, Any]
    """What was varied: shape, batch, context, budget, engine."""
    figures: Mapping[str, float | None]
    command: str
    commit: str
    """Short hash, `+` appended where the tree had changes; "none" outside a repository."""
    date: str
    device: str
    threads: int
    clocks_mhz: Mapping[str, float]
    versions: Mapping[str, str]

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Raises ValueError naming the field where the line is no record."""
        values = json.loads(line)
        names = cls.__dataclass_fields__.keys()
        missing, unknown = names - values.keys(), values.keys() - names
        if missing or unknown:
            raise ValueError(f"a result line lacks {sorted(missing)} and has unknown {sorted(unknown)}")
        return cls(**values)


@dataclass(frozen=True)
class Machine:
    """What every record of one run says alike; read once at its start."""

    command: str
    commit: str
    device: str
    versions: Mapping[str, str]

    @classmethod
    def read(cls, device: torch.device, peers: Mapping[str, str] | None = None) -> Self:
        """`peers` are versions of engines that run in other processes."""
        module = sys.modules["__main__"].__spec__
        program = f"python -m {module.name}" if module is not None else Path(sys.argv[0]).name
        # an absolute path, that of NAME=PATH too, by its last part: a record is read elsewhere
        words = [re.sub(r"(^|=)/.*", lambda found: found[1] + Path(found[0]).name, word) for word in sys.argv[1:]]
        return cls(
            command=" ".join([program, *words]),
            commit=commit() or "none",
            device=device_name(device),
            versions=versions() | dict(peers or {}),
        )

    def record(self, benchmark: str, case: Mapping[str, Any], figures: Mapping[str, float | None]) -> Record:
        """A record of now, its figures with four significant digits: more are noise."""
        return Record(
            benchmark=benchmark,
            case=case,
            figures={key: value and float(f"{value:.4g}") for key, value in figures.items()},
            command=self.command,
            commit=self.commit,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            device=self.device,
            threads=torch.get_num_threads(),
            clocks_mhz=clocks(),
            versions=self.versions,
        )

    def write(
        self, file: Path | None, benchmark: str, case: Mapping[str, Any], figures: Mapping[str, float | None]
    ) -> None:
        """Append a record of now to `file`, where there is one."""
        if file is not None:
            append(file, self.record(benchmark, case, figures))


def append(file: Path, *records: Record) -> None:
    """Add a line for each to `file`, all in one write: a run that ends early leaves whole lines, and of records that
    belong together all or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(asdict(record)) + "\n" for record in records))


def read(file: Path) -> list[Record]:
    """The records of one file. Raises ValueError naming file and line where one is torn."""
    records = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            records.append(Record.parse(line))
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}; delete the line or restore it") from None
    return records


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its number of cores. A GPU's is asked of its driver, so that this process takes
    nothing of its memory."""
    if device.type == "cuda" and (card := stand_in.card()) is not None:
        return f"stand-in for {card.name}: {device_name(torch.device('cpu'))}"
    if device.type == "cuda":
        return gpu_name(device.index or 0) or torch.cuda.get_device_name(device)
    return f"{[*_cpuinfo('model name'), platform.machine()][0]}, {os.cpu_count()} cores"


def gpu_name(index: int = 0) -> str | None:
    """What the driver calls a GPU; None: there is no driver, or no such GPU."""
    names = _ask_driver("name")
    return names[index] if index < len(names) else None


def clocks() -> dict[str, float]:
    """MHz now: the GPU's SM and memory clocks as its driver tells them, otherwise the mean of the CPU's cores."""
    if answer := _ask_driver("clocks.sm,clocks.mem"):
        return dict(zip(("sm", "memory"), map(float, answer[0].split(",")), strict=True))
    found = [float(value) for value in _cpuinfo("cpu MHz")]
    return {"cpu": round(statistics.mean(found))} if found else {}


def _cpuinfo(field: str) -> list[str]:
    """What Linux says of each core."""
    file = Path("/proc/cpuinfo")
    return re.findall(rf"^{field}\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else []


def _ask_driver(what: str) -> list[str]:
    """nvidia-smi's answer, a line for each GPU; none where it is missing or fails."""
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.check_output(query, stderr=subprocess.DEVNULL, text=True).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def versions() -> dict[str, str]:
    """Python, the CUDA that torch was built for, and the packages that speed depends on."""
    card = stand_in.card()
    found = {"python": platform.python_version(), "cuda": torch.version.cuda, "stand_in": card.name if card else None}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {name: version for name, version in found.items() if version is not None}
