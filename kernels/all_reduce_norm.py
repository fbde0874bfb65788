"""Sum over the ranks, residual add and RMSNorm in one kernel: h = sum_r part_r + residual; y = norm(h) * weight.

Every rank's part lies in memory that all ranks can read (torch's symmetric memory), and each rank reads all of them
itself. Parts are added in rank order in float32, so all ranks get the same bits. Whoever calls it sees to it that the
parts are written, and stay as they are until all ranks have read them (`engine.ranks.one_shot`). Not yet measured on a
GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import use_triton
from kernels.language import jit, launch, next_power_of_2, require_triton, tl
from kernels.rms_norm import rms_norm_reference


@dataclass(frozen=True)
class Parts:
    """The buffers of all ranks, in rank order, as this rank sees them. A message is the first values of each."""

    buffers: tuple[torch.Tensor, ...]
    """each [capacity], of one dtype"""
    addresses: torch.Tensor
    """[ranks] int64, on the device that reads them"""

    @classmethod
    def of(cls, buffers: Sequence[torch.Tensor]) -> "Parts":
        """With the table of addresses on the device of the buffers, which must begin at multiples of 16 bytes."""
        addresses = torch.tensor([b.data_ptr() for b in buffers], dtype=torch.int64, device=buffers[0].device)
        return cls(tuple(buffers), addresses)


def all_reduce_norm_reference(
    parts: Parts, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition. The sum with the residual is rounded to the residual's dtype once, as the next layer adds to it;
    an all-reduce followed by `rms_norm` rounds twice."""
    total = torch.zeros_like(residual, dtype=torch.float32)
    for buffer in parts.buffers:
        total += buffer[: residual.numel()].view_as(residual).float()
    h = (total + residual.float()).to(residual.dtype)
    return rms_norm_reference(h, weight, eps)[0], h


@jit
def _all_reduce_norm_kernel(
    addresses_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    sum_ptr,
    eps,
    RANKS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row. The loop over ranks is unrolled, so that all reads over NVLink are under way at once; they
    bypass L1, which does not see what other devices write."""
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    cols = tl.arange(0, BLOCK)
    inside = cols < HIDDEN
    total = tl.zeros([BLOCK], tl.float32)
    for rank in tl.static_range(RANKS):
        part_ptr = tl.load(addresses_ptr + rank).to(tl.pointer_type(y_ptr.dtype.element_ty))
        part_ptr = tl.multiple_of(part_ptr, 16)
        total += tl.load(part_ptr + row + cols, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    h = total + tl.load(residual_ptr + row + cols, mask=inside, other=0.0).to(tl.float32)
    h = h.to(y_ptr.dtype.element_ty)
    tl.store(sum_ptr + row + cols, h, mask=inside)
    h = h.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(h * h, axis=0) / HIDDEN + eps)
    y = h * scale * tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


def all_reduce_norm_config(hidden: int) -> dict[str, int | bool]:
    """Block and warps for a row of `hidden`: 8 to 16 values per thread, 16-byte reads of each rank's part in bf16."""
    block = next_power_of_2(hidden)
    return {"BLOCK": block, **launch(num_warps=min(16, max(1, block // 512)))}


def all_reduce_norm_triton(
    parts: Parts, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The launcher."""
    require_triton()
    residual = residual.contiguous()
    y, h = torch.empty_like(residual), torch.empty_like(residual)
    tokens, hidden = residual.shape
    if tokens:
        _all_reduce_norm_kernel[(tokens,)](
            parts.addresses,
            residual,
            weight,
            y,
            h,
            eps,
            RANKS=len(parts.buffers),
            HIDDEN=hidden,
            **all_reduce_norm_config(hidden),
        )
    return y, h


def all_reduce_norm(
    parts: Parts, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each part's first N * H values, weight [H], residual [N, H] of the parts' dtype -> (y [N, H], h [N, H])."""
    run = all_reduce_norm_triton if use_triton(residual) else all_reduce_norm_reference
    return run(parts, weight, eps, residual)


def all_reduce_norm_cost(tokens: int, hidden: int, ranks: int, itemsize: int = 2) -> tuple[int, int]:
    """(bytes, flops): all parts, residual and weight read, y and h written. All parts but one come over NVLink."""
    return ((ranks + 3) * tokens + 1) * hidden * itemsize, (ranks + 4) * tokens * hidden
