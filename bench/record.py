"""One result: what ran, on what, and the figures. A line of JSON per result; every table is a view of such lines."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import stand_in

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
    def parse(cls, line: bytes) -> Record:
        """Raises ValueError naming the field where the line is no record."""
        values = json.loads(line)
        missing = cls.__dataclass_fields__.keys() - values.keys()
        unknown = values.keys() - cls.__dataclass_fields__.keys()
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
    def read(cls, device: torch.device, peers: Mapping[str, str] | None = None) -> Machine:
        """`peers` are versions of engines that run in other processes."""
        module = sys.modules["__main__"].__spec__
        program = f"python -m {module.name}" if module is not None else Path(sys.argv[0]).name
        return cls(
            command=" ".join([program, *(_portable(argument) for argument in sys.argv[1:])]),
            commit=commit(),
            device=device_name(device),
            versions=versions() | dict(peers or {}),
        )

    def record(self, benchmark: str, case: Mapping[str, Any], figures: Mapping[str, float | None]) -> Record:
        """A record of now."""
        return Record(
            benchmark=benchmark,
            case=case,
            figures={key: _rounded(value) for key, value in figures.items()},
            command=self.command,
            commit=self.commit,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            device=self.device,
            threads=torch.get_num_threads(),
            clocks_mhz=clocks(),
            versions=self.versions,
        )


def append(record: Record, file: Path) -> None:
    """Add one line to `file`, in one write, so that runs that end early leave whole lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def read(file: Path) -> list[Record]:
    """The records of one file. Raises ValueError naming file and line where one is torn."""
    records = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            records.append(Record.parse(line))
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}; delete the line or restore it") from None
    return records


def known(file: Path | None, benchmark: str, device: torch.device) -> list[Record]:
    """What `file` has of a benchmark on this device; nothing where there is no file."""
    if file is None or not file.exists():
        return []
    name = device_name(device)
    return [line for line in read(file) if (line.benchmark, line.device) == (benchmark, name)]


def commit() -> str:
    """The repository's short commit, with `+` where tracked or new files differ from it; S1_COMMIT, where that is set:
    for copies without the history."""
    given = os.environ.get("S1_COMMIT")
    if given:
        return given
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        state = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "none"
    if head.returncode:
        return "none"
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its number of cores. A GPU's is asked of its driver, so that this process takes
    nothing of its memory."""
    card = stand_in.card() if device.type == "cuda" else None
    if card is not None:
        return f"stand-in for {card.name}: {device_name(torch.device('cpu'))}"
    if device.type == "cuda":
        return gpu_name(device.index or 0) or torch.cuda.get_device_name(device)
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"


def gpu_name(index: int = 0) -> str | None:
    """What the driver calls a GPU; None: there is no driver, or no such GPU."""
    names = _ask_driver("name")
    return names[index] if index < len(names) else None


def clocks() -> dict[str, float]:
    """MHz now: the GPU's SM and memory clocks as its driver tells them, otherwise the mean of the CPU's cores."""
    answer = _ask_driver("clocks.sm,clocks.mem")
    if answer:
        sm, memory = (float(value) for value in answer[0].split(","))
        return {"sm": sm, "memory": memory}
    cpuinfo = Path("/proc/cpuinfo")
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    return {"cpu": round(sum(map(float, found)) / len(found))} if found else {}


def _ask_driver(what: str) -> list[str]:
    """nvidia-smi's answer, a line for each GPU; none where it is missing or fails."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def versions() -> dict[str, str]:
    """Python, the CUDA that torch was built for, and the packages that speed depends on."""
    found = {"python": platform.python_version()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    card = stand_in.card()
    if card is not None:
        found["stand_in"] = card.name
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _portable(argument: str) -> str:
    """An absolute path by its last part: a record is read elsewhere."""
    return Path(argument).name if argument.startswith("/") else argument


def _rounded(value: float | None) -> float | None:
    """Four significant digits: more are noise."""
    return None if value is None else float(f"{value:.4g}")
