"""Triton as these kernels use it: the one place that knows its absence and its versions (3.6 to 3.9).

Triton has wheels for Linux alone. Elsewhere `jit` leaves functions as they are, every module still imports, and only
launching a kernel fails; CPU tensors never need one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernels.errors import KernelError

try:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError:
    triton = tl = ASTSource = GPUTarget = None

__all__ = [
    "ASTSource", "GPUTarget", "cdiv", "dot_precision", "jit", "launch", "next_power_of_2", "require_triton", "tl",
    "triton",
]  # fmt: skip


def jit(fn: Callable) -> Any:
    """`triton.jit` where Triton is installed."""
    return fn if triton is None else triton.jit(fn)


def require_triton() -> None:
    """Refuse a launch without Triton."""
    if triton is None:
        raise KernelError("CUDA tensors need Triton, and it is not installed; pip install triton, or run on the CPU")


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def launch(num_warps: int, num_stages: int | None = None) -> dict[str, int | bool]:
    """Launch options. Triton 3.10 stops contracting a * b + c by default and 3.9 warns; these kernels ask for it."""
    stages = {} if num_stages is None else {"num_stages": num_stages}
    return {"num_warps": num_warps, "enable_fp_fusion": True, **stages}


def dot_precision(dtype: torch.dtype) -> str:
    """`tl.dot` input precision: float32 stays float32 (TF32 keeps three digits), half types have only one way."""
    return "ieee" if dtype == torch.float32 else "tf32"
