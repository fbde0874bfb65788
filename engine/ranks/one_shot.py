"""One-shot all-reduce: every rank reads every other rank's buffer over NVLink and adds it up itself, in one kernel.

A ring pays a hop per rank; a decode step's messages (10 KiB per token at width 5120) are all latency. Published figures
on Hopper are 7 to 10 us against NCCL's 20 or so up to 0.5 MB. Buffers and barriers are those of torch's symmetric
memory (torch.distributed._symmetric_memory, alpha), as is the kernel of the plain sum; that of the sum with residual
and norm is ours (kernels/all_reduce_norm.py). Off by default, and not yet measured on a GPU.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _symmetric_memory as symmetric_memory

from engine.errors import InputError, first_line
from kernels.all_reduce_norm import Parts, all_reduce_norm

MOST_BYTES = 512 << 10
"""Longer messages go to NCCL: reading size - 1 whole buffers then takes longer than a ring."""
_ALIGNMENT = 16


class SharedBuffer(Protocol):
    """What torch's symmetric memory gives for a buffer that every rank has one of."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    def get_buffer(self, rank: int, sizes: list[int], dtype: torch.dtype, storage_offset: int = 0) -> Tensor: ...
    def barrier(self, channel: int = 0, timeout_ms: int = 0) -> None: ...


class OneShotAllReduce:
    """A buffer that all ranks of the default group can read, and sums through it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Collective. Raises InputError where the devices cannot read each other's memory, and for float16, which the
        kernel does not take."""
        self._buffer, _ = _shared(MOST_BYTES // dtype.itemsize, dtype, device)
        assert dist.group.WORLD is not None  # Group has joined the ranks
        self._group_name = dist.group.WORLD.group_name

    def takes(self, tensor: Tensor) -> bool:
        """Whether a message is short enough, of the buffer's dtype, and whole vectors of 16 bytes."""
        size = tensor.numel() * tensor.element_size()
        return tensor.dtype is self._buffer.dtype and 0 < size <= MOST_BYTES and size % _ALIGNMENT == 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, a new tensor of any shape. Every rank must call it on the same stream order."""
        tensor = tensor.contiguous()
        shared = self._buffer[: tensor.numel()].view(tensor.shape)
        return torch.ops.symm_mem.one_shot_all_reduce_copy(shared, tensor, "sum", self._group_name)


class OneShotAllReduceNorm:
    """Sums that the residual is added to and that are normalised, in the kernel that reads the ranks' parts.

    Three launches: the part is copied to where all can read it, torch's barrier, the kernel. Two buffers take turns, so
    that this one barrier is enough: a rank comes to the next barrier only after its kernel has read this buffer, and
    the buffer is written again only behind that one.
    """

    def __init__(self, buffer: Tensor, handle: SharedBuffer) -> None:
        """`buffer` [2 * capacity] is this rank's own, kept as long as this lives; `handle` gives the others'. Raises
        InputError where it gives something else for this rank's."""
        self._buffer, self._handle = buffer, handle
        half = buffer.numel() // 2
        self._turns = []
        for start in (0, half):
            parts = Parts.of([handle.get_buffer(r, [half], buffer.dtype, start) for r in range(handle.world_size)])
            if parts.buffers[handle.rank].data_ptr() != buffer[start:].data_ptr():
                raise InputError(
                    "one_shot_all_reduce: torch's symmetric memory does not give a rank its own buffer; leave it off"
                )
            self._turns.append(parts)

    @classmethod
    def make(cls, dtype: torch.dtype, device: torch.device) -> "OneShotAllReduceNorm":
        """Collective. Raises InputError as `OneShotAllReduce` does."""
        return cls(*_shared(2 * MOST_BYTES // dtype.itemsize, dtype, device))

    def __call__(self, part: Tensor, weight: Tensor, eps: float, residual: Tensor) -> tuple[Tensor, Tensor]:
        """part, residual [N, H], weight [H] -> (normalised [N, H], sum with residual [N, H]), the same bits on every
        rank. Every rank must call it on the same stream order."""
        parts = self._turns[0]
        self._turns.reverse()
        parts.buffers[self._handle.rank][: part.numel()].view(part.shape).copy_(part)
        self._handle.barrier()
        return all_reduce_norm(parts, weight, eps, residual)


def _shared(count: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, SharedBuffer]:
    """A buffer of `count` values on every rank of the default group, and what the others' are reached by."""
    if dtype not in (torch.bfloat16, torch.float32):
        raise InputError(f"one_shot_all_reduce takes bfloat16 and float32, the model runs in {dtype}; leave it off")
    assert dist.group.WORLD is not None  # Group has joined the ranks
    try:
        buffer = symmetric_memory.empty(count, dtype=dtype, device=device)
        return buffer, symmetric_memory.rendezvous(buffer, dist.group.WORLD.group_name)
    except RuntimeError as error:
        raise InputError(
            f"one_shot_all_reduce is not possible on {device} ({first_line(error)}); leave it off"
        ) from error
