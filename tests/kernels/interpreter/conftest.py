"""Kernel tests that need Triton's interpreter or a GPU; without either they are not collected here.

`tests/kernels/test_interpreter.py` runs this folder in a process of its own with TRITON_INTERPRET=1, which Triton
reads when a kernel is defined. Where a CUDA device is, they run for real instead.
"""

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
