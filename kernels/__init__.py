"""The operators of the hot path, one per file.

Each file holds the torch definition `<op>_reference`, the public `<op>` that picks by device, the Triton kernel with
its launcher, and `<op>_cost(...) -> (bytes, flops)`, which `bench.kernels` holds times against; what a whole step takes
is in `kernels.limits`. `kernels/native` is the library of C++ twins. The pick:

- CUDA tensors: the Triton kernel (dense products: cuBLAS unless the recorded table in `kernels.linear` says otherwise).
- CPU tensors: the C++ twin in `csrc/cpu` where it is built and takes the dtype and shape, else the torch definition.
- `TRITON_INTERPRET=1` (Triton's own switch): the Triton kernels, interpreted, on CPU tensors too. For tests.
- `S1_KERNELS=reference`: the torch definitions everywhere.

`S1_TRITON=cuda` leaves Triton out where torch finds no CUDA device, which is half a second less for a program that
compiles nothing: `engine.generate` asks for it.
"""

import os
from typing import TYPE_CHECKING

from kernels.errors import FAULTS, KernelError

if TYPE_CHECKING:
    import torch

__all__ = ["INTERPRET", "REFERENCE", "KernelError", "use_triton"]

if os.environ.get("S1_KERNELS", "") not in ("", "reference"):
    FAULTS.append(f"S1_KERNELS is {os.environ['S1_KERNELS'][:80]!r}; leave it unset or give 'reference'")

REFERENCE = os.environ.get("S1_KERNELS", "") == "reference"
"""Torch definitions everywhere, whatever the device."""

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Triton runs kernels in its interpreter, so they take CPU tensors."""


def use_triton(x: "torch.Tensor") -> bool:
    """Whether the Triton kernel runs an operator on `x`: a CUDA tensor, or any tensor under the interpreter."""
    return not REFERENCE and (x.is_cuda or INTERPRET)
