"""Kernel tests that need Triton's interpreter or a GPU; without either they are not collected here.

`tests/kernels/test_interpreter.py` runs this folder in a process of its own with TRITON_INTERPRET=1, which Triton
reads when a kernel is defined. Where a CUDA device is, they run for real instead.
"""

from __future__ import annotations

import pytest
import torch

from kernels import INTERPRET

if not INTERPRET and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run: the interpreter's CPU, or the GPU."""
    return torch.device("cpu" if INTERPRET else "cuda")


@pytest.fixture(autouse=True)
def poisoned():
    """`torch.empty` gives NaN and the largest integers: an output that a kernel leaves unwritten cannot pass."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
