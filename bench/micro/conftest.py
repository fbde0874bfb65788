"""A small checkpoint and a host loop for the micro-benchmarks; `make bench` runs them with pytest-benchmark."""

from pathlib import Path

import pytest
import torch

from bench import checkpoints, shapes
from engine.text.tokenizer import Tokenizer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Comparable from machine to machine, and quieter."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoints"), shapes.SHAPES["tiny"])


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)
