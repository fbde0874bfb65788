"""One-shot all-reduce: every rank reads every other rank's buffer over NVLink and adds it up itself, in one kernel.

A ring pays a hop per rank; a decode step's messages (10 KiB per token at width 5120) are all latency. Published figures
on Hopper are 7 to 10 us against NCCL's 20 or so up to 0.5 MB. The kernel and its barriers are those of torch's
symmetric memory (torch.distributed._symmetric_memory, alpha). Off by default, and not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _symmetric_memory as symmetric_memory

from engine.errors import InputError

MOST_BYTES = 512 << 10
"""Longer messages go to NCCL: reading size - 1 whole buffers then takes longer than a ring."""
_ALIGNMENT = 16


class OneShotAllReduce:
    """A buffer that all ranks of the default group can read, and sums through it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Collective. Raises InputError where the devices cannot read each other's memory, and for float16, which the
        kernel does not take."""
        if dtype not in (torch.bfloat16, torch.float32):
            raise InputError(f"one_shot_all_reduce takes bfloat16 and float32, the model runs in {dtype}; leave it off")
        assert dist.group.WORLD is not None  # Group has joined the ranks
        self._group_name = dist.group.WORLD.group_name
        try:
            self._buffer = symmetric_memory.empty(MOST_BYTES // dtype.itemsize, dtype=dtype, device=device)
            symmetric_memory.rendezvous(self._buffer, self._group_name)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"one_shot_all_reduce is not possible on {device} ({reason}); leave it off") from error

    def takes(self, tensor: Tensor) -> bool:
        """Whether a message is short enough, of the buffer's dtype, and whole vectors of 16 bytes."""
        size = tensor.numel() * tensor.element_size()
        return tensor.dtype is self._buffer.dtype and 0 < size <= MOST_BYTES and size % _ALIGNMENT == 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, a new tensor of any shape. Every rank must call it on the same stream order."""
        tensor = tensor.contiguous()
        shared = self._buffer[: tensor.numel()].view(tensor.shape)
        return torch.ops.symm_mem.one_shot_all_reduce_copy(shared, tensor, "sum", self._group_name)
