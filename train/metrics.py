"""What a run reports: metrics.jsonl always, a progress line on a terminal, TensorBoard and wandb when asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import torch

from engine.command.append_log import AppendLog, read_lines
from kernels.limits import A100, B200, H100, H200, known_device
from train.config import TrainConfig
from train.errors import TrainingError

GPUS = (H100, H200, A100, B200)


class Sink(Protocol):
    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonlSink:
    """One JSON object per line. Opened at step n, it drops what a dead run wrote beyond it, a torn last line too."""

    def __init__(self, path: Path, resume_step: int):
        self._lines = AppendLog(path)
        lines = read_lines(self._lines.file, str(path), lambda value: "step" in value) if resume_step else ()
        self._lines.cut(max((x.offset + x.size for x in lines if x.value["step"] <= resume_step), default=0))

    def write(self, record: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        self._lines.close()


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}


class TensorBoardSink:
    def __init__(self, folder: Path, resume_step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter  # Optional extra.
        except ImportError as error:
            raise TrainingError(
                "metrics.tensorboard needs tensorboard: pip install tensorboard, or set it to false"
            ) from error
        # What a dead run wrote beyond the checkpoint is hidden.
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """One wandb run per run folder: its id is kept there, so that a resumed run goes on in the same curves."""

    def __init__(self, project: str, folder: Path, resume_step: int, config: dict[str, Any]):
        try:
            import wandb  # Optional extra.
        except ImportError as error:
            raise TrainingError("metrics.wandb needs wandb: pip install wandb, or set it to null") from error
        kept = folder / "wandb_id"
        if not (resume_step and kept.is_file()):
            kept.write_text(uuid4().hex)
        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=kept.read_text(), resume="allow", dir=folder, config=config
            )
        except wandb.Error as error:
            raise TrainingError(f"metrics.wandb: {error} (WANDB_MODE=offline needs no account)") from error

    def write(self, record: Mapping[str, Any]) -> None:
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


class ProgressSink:
    """One line on stderr, overwritten on a terminal, else one line now and then."""

    def __init__(self, total: int):
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._printed = 0.0

    def write(self, record: Mapping[str, Any]) -> None:
        now = time.monotonic()
        last = record["step"] == self._total
        if "loss" not in record or (not self._terminal and not last and now - self._printed < 10.0):
            return
        self._printed = now
        mfu = f" · MFU {100 * record['mfu']:.1f} %" if record["mfu"] else ""
        left = max(self._total - record["step"], 0) * record["seconds"]
        line = (
            f"step {record['step']}/{self._total} · loss {record['loss']:.4f}"
            f" · {record['tokens_per_second']:,.0f} tok/s{mfu}"
            f" · {record['memory_gb']:.2f} GB · {int(left // 60)}:{int(left % 60):02d} left"
        )
        print(
            f"\r\x1b[K{line}" if self._terminal else line,
            end="" if self._terminal and not last else "\n",
            file=sys.stderr,
        )

    def close(self) -> None:
        pass


def open_sinks(config: TrainConfig, folder: Path, resume_step: int, total: int) -> list[Sink]:
    sinks: list[Sink] = [JsonlSink(folder / "metrics.jsonl", resume_step)]
    if config.metrics.progress:
        sinks.append(ProgressSink(total))
    if config.metrics.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard", resume_step))
    if config.metrics.wandb:
        sinks.append(WandbSink(config.metrics.wandb, folder, resume_step, msgspec.to_builtins(config)))
    return sinks


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of the GPU by its name, FLOP/s; None when unknown (and on CPUs): then no MFU is claimed."""
    if device.type != "cuda":
        return None
    gpu = known_device(torch.cuda.get_device_name(device), GPUS)
    return None if gpu is None else gpu.peak_flops


def memory_gb(device: torch.device) -> float:
    """Largest memory so far in 1e9 bytes: allocated by torch on the GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
