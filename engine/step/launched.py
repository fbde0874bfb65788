"""A step in flight, and the host memory that its result comes back in."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.errors import EngineDead
from engine.model.batch import StepResult
from engine.schedule.sequence import Sequence
from kernels.thinking import Record


@dataclass(frozen=True)
class Read:
    """A step's result on the host."""

    records: list[list[int]]
    """a list of len(kernels.thinking.Record) for each row"""
    logprobs: np.ndarray | None
    top_ids: np.ndarray | None
    top_logprobs: np.ndarray | None
    scores: np.ndarray | None


class Launched:
    """A step in flight. `read` waits for this step alone."""

    def __init__(
        self,
        rows: list[Sequence],
        result: StepResult | None = None,
        event: torch.cuda.Event | None = None,
        buffer: "ResultBuffer | None" = None,
    ) -> None:
        """`result` is on the host already, or will be once `event` has happened."""
        self.rows = rows
        self._result, self._event, self._buffer = result, event, buffer

    def read(self) -> Read | None:
        """Wait for the step and return what it drew; None where no row drew."""
        if self._event is not None:
            self._event.synchronize()
        if self._result is None:
            return None
        r = self._result
        optional = (None if t is None else t.numpy() for t in (r.logprobs, r.top_ids, r.top_logprobs, r.scores))
        read = Read(r.records.tolist(), *optional)
        if self._buffer is not None:
            self._buffer.unread = False
        return read


@dataclass
class ResultBuffer:
    """Host memory for the records of one step in flight, pinned on CUDA."""

    records: torch.Tensor
    """[rows, len(Record)] int32"""
    unread: bool = False


class ResultBuffers:
    """Two result buffers that take turns: one step runs while the host reads the one before it.

    A captured step always writes the same device tensors, so its result is copied out in stream order before the next
    replay; the copy goes to the buffer whose step has been read.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._on_cuda = pinned = device.type == "cuda"
        self._buffers = [
            ResultBuffer(torch.empty(rows, len(Record), dtype=torch.int32, pin_memory=pinned)) for _ in range(2)
        ]

    def copy_out(self, rows: list[Sequence], result: StepResult) -> Launched:
        """Queue the copy of the first len(rows) rows of `result` to the host. Raises EngineDead where the buffer's last
        step has not been read: three steps would be in flight."""
        buffer = self._buffers[0]
        self._buffers.reverse()
        if buffer.unread:
            raise EngineDead("a third step was launched before the first was read")
        buffer.unread = True
        count = len(rows)
        records = buffer.records[:count]
        records.copy_(result.records[:count], non_blocking=True)
        # Rare and of varying width: memory of their own, which the caching host allocator recycles.
        extra = (result.logprobs, result.top_ids, result.top_logprobs)
        optional = (None if t is None else self._copy(t[:count]) for t in extra)
        scores = None if result.scores is None else self._copy(result.scores)
        copied = replace(StepResult(records, *optional), scores=scores)
        event = torch.cuda.Event() if self._on_cuda else None
        if event is not None:
            event.record()
        return Launched(rows, copied, event, buffer)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._on_cuda).copy_(tensor, non_blocking=True)
