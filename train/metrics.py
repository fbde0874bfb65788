"""What a run reports: metrics.jsonl always, a progress line on a terminal, TensorBoard and wandb when asked for."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import torch

from engine.command.append_log import AppendLog, read_lines
from kernels.limits import A100, B200, H100, H200, known_device
from train.config import TrainConfig
from train.errors import TrainingError

GPUS = (H100, H200, A100, B200)

Write = Callable[[Mapping[str, Any]], object]
"""Takes the record of a step."""


@contextmanager
def _to_jsonl(path: Path, resume_step: int) -> Iterator[Write]:
    """One JSON object per line. Opened at step n, it drops what a dead run wrote beyond it, a torn last line too."""
    with closing(AppendLog(path)) as log:
        lines = read_lines(log.file, str(path), lambda value: isinstance(value.get("step"), int)) if resume_step else ()
        log.cut(max((x.offset + x.size for x in lines if x.value["step"] <= resume_step), default=0))
        yield lambda record: log.append(json.dumps(record).encode() + b"\n")


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}


@contextmanager
def _to_tensorboard(folder: Path, resume_step: int) -> Iterator[Write]:
    try:
        from torch.utils.tensorboard import SummaryWriter  # Optional extra.
    except ImportError as error:
        raise TrainingError(
            "metrics.tensorboard needs tensorboard: pip install tensorboard, or set it to false"
        ) from error
    # What a dead run wrote beyond the checkpoint is hidden.
    with SummaryWriter(str(folder), purge_step=resume_step + 1) as writer:

        def write(record: Mapping[str, Any]) -> None:
            for name, value in _numbers(record).items():
                writer.add_scalar(name, value, record["step"])

        yield write


@contextmanager
def _to_wandb(config: TrainConfig, folder: Path, resume_step: int) -> Iterator[Write]:
    """One wandb run per run folder: its id is kept there, so that a resumed run goes on in the same curves."""
    try:
        import wandb  # Optional extra.
    except ImportError as error:
        raise TrainingError("metrics.wandb needs wandb: pip install wandb, or set it to null") from error
    kept = folder / "wandb_id"
    if not (resume_step and kept.is_file()):
        kept.write_text(uuid4().hex)
    try:
        run = wandb.init(
            project=config.metrics.wandb,
            name=folder.name,
            id=kept.read_text(),
            resume="allow",
            dir=folder,
            config=msgspec.to_builtins(config),
        )
    except wandb.Error as error:
        raise TrainingError(f"metrics.wandb: {error} (WANDB_MODE=offline needs no account)") from error
    try:
        yield lambda record: run.log(_numbers(record), step=record["step"])
    finally:
        run.finish()


def _to_stderr(total: int) -> Write:
    """One line, overwritten on a terminal, else one line now and then."""
    terminal, printed = sys.stderr.isatty(), 0.0

    def write(record: Mapping[str, Any]) -> None:
        nonlocal printed
        now, last = time.monotonic(), record["step"] == total
        held = f" · held out {record['heldout_loss']:.4f}" if "heldout_loss" in record else ""
        if "loss" not in record:  # before the first step
            print(f"step 0/{total}{held}", file=sys.stderr)
            return
        if not terminal and not last and not held and now - printed < 10.0:
            return
        printed = now
        mfu = f" · MFU {100 * record['mfu']:.1f} %" if record["mfu"] else ""
        minutes, seconds = divmod(int(max(total - record["step"], 0) * record["seconds"]), 60)
        line = (
            f"step {record['step']}/{total} · loss {record['loss']:.4f}{held} · "
            f"{record['tokens_per_second']:,.0f} tok/s{mfu} · "
            f"{record['memory_gb']:.2f} GB · {minutes}:{seconds:02d} left"
        )
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal and not last else "\n", file=sys.stderr)

    return write


def open_sinks(config: TrainConfig, folder: Path, resume_step: int, total: int, stack: ExitStack) -> list[Write]:
    """Where the run reports to, until `stack` is closed."""
    sinks = [stack.enter_context(_to_jsonl(folder / "metrics.jsonl", resume_step))]
    if config.metrics.progress:
        sinks.append(_to_stderr(total))
    if config.metrics.tensorboard:
        sinks.append(stack.enter_context(_to_tensorboard(folder / "tensorboard", resume_step)))
    if config.metrics.wandb:
        sinks.append(stack.enter_context(_to_wandb(config, folder, resume_step)))
    return sinks


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of the GPU by its name, FLOP/s; None when unknown (and on CPUs): then no MFU is claimed."""
    gpu = known_device(torch.cuda.get_device_name(device), GPUS) if device.type == "cuda" else None
    return None if gpu is None else gpu.peak_flops


def memory_gb(device: torch.device) -> float:
    """Largest memory so far in 1e9 bytes: allocated by torch on the GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
