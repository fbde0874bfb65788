"""Triton as these kernels use it: the one place that knows its absence and its versions (3.6 to 3.9).

Triton has wheels for Linux alone. Elsewhere `jit` leaves functions as they are, every module still imports, and only
launching a kernel fails; CPU tensors never need one. The interpreter of Triton 3.6 needs NumPy below 2.4 (it takes
arrays of one value for numbers); compiled kernels do not.

Programmatic dependent launch (sm_90 and later): a kernel launched with `dependent=True` may start while the kernel
before it in the stream still runs, once every program of that one has ended or let it start
(`griddepcontrol.launch_dependents`). This cannot race, whatever the neighbours are, as long as every dependent kernel
1. waits (`griddepcontrol.wait`) in every program before it reads or writes memory. That returns when the kernel before
   it is complete and its writes are seen, as a plain launch would find them. `prefetch` alone may come earlier: it
   fills the L2 cache, through which all writes go, so what is read later is never stale;
2. lets the next one start after the wait, never before it. Then all that came before the kernel is complete when the
   next one starts, and the next one's wait covers the kernel itself.
`follow_previous_kernel` does both. A plain launch waits for the whole kernel in front of it. CUDA graphs capture
dependent launches as they are.
"""

import os
from collections.abc import Callable
from typing import Any

import torch

from kernels import INTERPRET
from kernels.errors import KernelError


class _Absent:
    """In the place of triton.language where there is none: modules name parts of it when they are imported."""

    def __getattr__(self, name: str) -> "_Absent":
        return self

    def __call__(self, *given: object) -> "_Absent":
        return self


try:
    if os.environ.get("S1_TRITON") == "cuda" and not (INTERPRET or torch.cuda.is_available()):
        raise ImportError("there is nothing to run it on")
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError:
    triton = ASTSource = GPUTarget = None
    tl = _Absent()

__all__ = [
    "ASTSource",
    "GPUTarget",
    "cdiv",
    "dot_precision",
    "follow_previous_kernel",
    "jit",
    "jit_varying",
    "launch",
    "next_power_of_2",
    "prefetch",
    "require_triton",
    "tl",
    "triton",
]


def jit(fn: Callable) -> Any:
    """`triton.jit` where Triton is installed."""
    return fn if triton is None else triton.jit(fn)


def jit_varying(*names: str) -> Callable[[Callable], Any]:
    """`jit` for a kernel whose arguments `names` change from launch to launch: counts that may be 1, strides of cut
    tables, pointers into the middle of them. Triton would compile it anew for a 1, for multiples of 16 and for pointers
    aligned to 16 bytes, in the middle of a run, and gain nothing where the argument is a bound or a scalar is read."""
    if triton is None:
        return lambda fn: fn
    return triton.jit(do_not_specialize=names, do_not_specialize_on_alignment=names)


_COMPILED = tl.constexpr(not INTERPRET)
"""The interpreter runs one kernel after the other: nothing to wait for, and no instruction to do it with."""


@jit
def follow_previous_kernel(DEPENDENT: tl.constexpr):
    """Rules 1 and 2 where DEPENDENT: wait for the kernel before this one, then let the one after it start."""
    if DEPENDENT and _COMPILED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@jit
def prefetch(pointers):
    """Ask for the memory behind `pointers` (32 bytes each, at least) in the L2 cache: a hint, nothing is read."""
    if _COMPILED:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
        )


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


def launch(num_warps: int, num_stages: int | None = None, dependent: bool = False) -> dict[str, int | bool]:
    """Launch options. Triton 3.10 stops contracting a * b + c by default and 3.9 warns; these kernels ask for it.

    `dependent`: the kernel may start before the one in front of it ends; it keeps the rules at the top.
    """
    stages = {} if num_stages is None else {"num_stages": num_stages}
    pdl = {"launch_pdl": True} if dependent else {}
    return {"num_warps": num_warps, "enable_fp_fusion": True, **stages, **pdl}


def dot_precision(dtype: torch.dtype) -> str:
    """`tl.dot` input precision: float32 stays float32 (TF32 keeps three digits), half types have only one way."""
    return "ieee" if dtype == torch.float32 else "tf32"
