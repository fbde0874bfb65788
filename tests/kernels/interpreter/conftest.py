"""Kernel tests that need Triton's interpreter or a GPU; without either they are not collected here.

`tests/kernels/test_interpreter.py` runs this folder in a process of its own with TRITON_INTERPRET=1, which Triton
reads when a kernel is defined. Where a CUDA device is, they run for real instead.
"""

import random
from math import prod

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
def poisoned(request):
    """`torch.empty` gives NaN and the largest integers: an output that a kernel leaves unwritten cannot pass. Not with
    `unfilled`, where what fills would be queued between the launches that are tested."""
    torch.manual_seed(0)
    filled = "unfilled" not in request.fixturenames
    # What torch.use_deterministic_algorithms sets, without the compiler that it imports, which takes seconds.
    torch._C._set_deterministic_algorithms(filled, warn_only=True)
    assert not filled or torch.empty(3).isnan().all()
    yield
    torch._C._set_deterministic_algorithms(False)


@pytest.fixture
def unfilled() -> None:
    """The memory that `torch.empty` gives is left as it is."""


@pytest.fixture(params=["in order", "backwards", "shuffled"])
def order(request, monkeypatch):
    """Programs of a launch one after the other in this order, where they are interpreted: whoever is last, the bits are
    the same. On a GPU any order may come."""
    if not INTERPRET or request.param == "in order":
        return
    from triton.runtime import interpreter

    builder, orders = interpreter.interpreter_builder, {}

    def set_grid_idx(x, y, z):
        _, ny, nz = builder.grid_dim
        count = prod(builder.grid_dim)
        if count not in orders:
            orders[count] = list(range(count))[::-1]
            if request.param == "shuffled":
                random.Random(count).shuffle(orders[count])
        at = orders[count][(x * ny + y) * nz + z]
        builder.grid_idx = at // (ny * nz), at // nz % ny, at % nz

    monkeypatch.setattr(builder, "set_grid_idx", set_grid_idx)
