"""Sum over the ranks, residual add and RMSNorm in one launch: h = sum_r part_r + residual; y = norm(h) * weight.

Every rank's part lies in memory that all ranks can read (torch's symmetric memory), and each rank reads all of them
itself. Parts are added in rank order in float32, so all ranks get the same bits. Whoever calls it sees to it that the
parts are written, and stay as they are until all ranks have read them (`engine.ranks.one_shot`). Not yet measured on a
GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import use_triton
from kernels.language import require_triton
from kernels.rms_norm import _rms_norm_kernel, rms_norm_config, rms_norm_reference


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


def all_reduce_norm_triton(
    parts: Parts, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The launcher."""
    require_triton()
    residual = residual.contiguous()
    y, h = torch.empty_like(residual), torch.empty_like(residual)
    tokens, hidden = residual.shape
    if tokens:
        _rms_norm_kernel[(tokens,)](
            None,
            parts.addresses,
            residual,
            weight,
            y,
            h,
            eps,
            HIDDEN=hidden,
            RANKS=len(parts.buffers),
            HAS_RESIDUAL=True,
            **rms_norm_config(hidden),
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
