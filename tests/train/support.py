"""Small models, data and runs for the trainer's tests."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.checkpoints import write_random_checkpoint
from train.config import TrainConfig, load_config
from train.data import Dataset
from train.parallel import join_world
from train.sft import Trainer

ROOT = Path(__file__).resolve().parents[2]
VOCAB = 96


def write_model(folder: Path, **shape: Any) -> Path:
    return write_random_checkpoint(folder, **{"hidden": 32, "intermediate": 48, "vocab": VOCAB, **shape})


def write_tokens(path: Path, lengths: list[int], vocab: int = VOCAB, masked: bool = True) -> Path:
    """Token records with ids s0, s1, ...; with `masked` a varying first part of each carries no loss."""
    rng = np.random.default_rng(len(lengths))
    with path.open("w") as file:
        for i, length in enumerate(lengths):
            prompt = int(rng.integers(1, max(length // 2, 2))) if masked else 0
            record = {"id": f"s{i}", "tokens": rng.integers(0, vocab, length).tolist()}
            file.write(json.dumps(record | {"trained": [0] * prompt + [1] * (length - prompt)}) + "\n")
    return path


def dataset(lengths: list[int], vocab: int = VOCAB, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    trained = np.concatenate([np.arange(n) >= n // 3 for n in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    targets = np.asarray([trained[a + 1 : b].sum() for a, b in pairwise(offsets)])
    tokens = rng.integers(0, vocab, sum(lengths)).astype(np.int32)
    return Dataset(tuple(f"s{i}" for i in range(len(lengths))), tokens, trained, offsets, targets)


def write_config(path: Path, model: Path, data: Path, /, **tree: Any) -> Path:
    """A float32 CPU run of one epoch; `tree` sections are merged in."""
    base: dict[str, Any] = {
        "run": str(path.with_suffix("")),
        "model": {"path": str(model)},
        "data": {"train": [str(data)], "loss": "all", "batch_size": 4},
        "epochs": 1,
        "optim": {"lr": 1e-2},
        "compute": {"device": "cpu", "dtype": "float32", "checkpointing": "none"},
        "metrics": {"progress": False},
    }
    for name, value in tree.items():
        base[name] = base[name] | value if isinstance(value, dict) and isinstance(base.get(name), dict) else value
    path.write_text(yaml.safe_dump(base))
    return path


def trainer(path: Path, *overrides: str) -> Trainer:
    config: TrainConfig = load_config(path, overrides)
    return Trainer(config, join_world(config))


def command(config: Path, *overrides: str, ranks: int = 1) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *torchrun, "-m", "train.sft", str(config), *overrides]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)


TRAJECTORY = ("step", "epoch", "loss", "grad_norm", "lr", "samples")


def trajectory(run: Path) -> list[tuple[Any, ...]]:
    """What must not change with an interruption, of every step, exactly as written."""
    return [tuple(r[name] for name in TRAJECTORY) for r in map(json.loads, (run / "metrics.jsonl").open())]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
