"""Memory of the CPU on 2 MiB pages: weights and the KV cache, which every step reads front to back or all over.

With pages of 4 KiB the processor walks the page table every 64 lines and its prefetchers stop at each end. The system
gives large pages only where a whole aligned 2 MiB is one mapping. A matrix of 1 MB from the allocator never is, so
small tensors that stay are cut from chunks. A chunk goes back when all that was cut from it has: what is freed sooner
than its neighbours has a mapping of its own.
"""

import math
import mmap
import threading

import torch

HUGE = 2**21
_CHUNK = 2**24
LINE = 64
"""Bytes of a cache line, at whose beginning every tensor lies."""


class _Chunk:
    """One mapping; it lives as long as a tensor that was cut from it."""

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data = torch.frombuffer(memory, dtype=torch.uint8)
        begin = -data.data_ptr() % HUGE
        if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE:
            memory.madvise(mmap.MADV_HUGEPAGE, begin, size // HUGE * HUGE)  # the rest would be backed up to 2 MiB
        self.data, self.used = data[begin : begin + size], 0

    def cut(self, size: int) -> torch.Tensor | None:
        """The next `size` bytes, at the beginning of a cache line; None where they do not fit."""
        begin = -(-self.used // LINE) * LINE
        if begin + size > self.data.numel():
            return None
        cut = self.data[begin : begin + size]
        self.used = begin + size
        return cut


_chunk: _Chunk | None = None
_lock = threading.Lock()
"""Around what is cut from `_chunk`: engines are made in any thread."""


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None, brief: bool = False
) -> torch.Tensor:
    """A tensor of anything, on 2 MiB pages as far as the system has them; on other devices `torch.empty`.

    `brief`: its memory goes back with it, however small it is.
    """
    global _chunk
    size = math.prod(shape) * dtype.itemsize
    if size == 0 or (device is not None and device.type != "cpu"):
        return torch.empty(shape, dtype=dtype, device=device)
    if brief or size > _CHUNK // 4:
        found = _Chunk(size).cut(size)
    else:
        with _lock:
            found = _chunk.cut(size) if _chunk else None
            if found is None:
                _chunk = _Chunk(_CHUNK)
                found = _chunk.cut(size)
    assert found is not None
    return found.view(dtype).view(shape)
