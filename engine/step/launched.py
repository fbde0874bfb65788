"""A step in flight, and the host memory that its result comes back in."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from engine.errors import EngineDead
from engine.model.batch import StepResult, TokenLogprobs
from engine.schedule.sequence import Sequence
from kernels.thinking import Record


class HostLogprobs(NamedTuple):
    """A TokenLogprobs on the host: a list of each tensor's rows."""

    chosen: list[float]
    top_ids: list[list[int]]
    top: list[list[float]]

    @classmethod
    def of(cls, tensors: TokenLogprobs | None) -> "HostLogprobs | None":
        """Of tensors that are on the host already."""
        return None if tensors is None else cls(*(tensor.tolist() for tensor in tensors))

    def at(self, row: int, most: int) -> tuple[float, tuple[tuple[int, float], ...]]:
        """The token's own, and the `most` likeliest with theirs."""
        return self.chosen[row], tuple(zip(self.top_ids[row][:most], self.top[row][:most], strict=True))


@dataclass(frozen=True)
class Read:
    """A step's result on the host."""

    records: list[list[int]]
    """a list of len(kernels.thinking.Record) for each row"""
    drawn: HostLogprobs | None
    scores: list[float] | None
    followed: HostLogprobs | None


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
        """Wait for the step and return what it drew and read; None where it did neither."""
        if self._event is not None:
            self._event.synchronize()
        if self._result is None:
            return None
        r = self._result
        scores = None if r.scores is None else r.scores.tolist()
        read = Read(r.records.tolist(), HostLogprobs.of(r.drawn), scores, HostLogprobs.of(r.followed))
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
        drawn = None if result.drawn is None else TokenLogprobs(*(self._copy(t[:count]) for t in result.drawn))
        scores = None if result.scores is None else self._copy(result.scores)
        followed = None if result.followed is None else TokenLogprobs(*map(self._copy, result.followed))
        copied = StepResult(records, drawn, scores, followed)
        event = torch.cuda.Event() if self._on_cuda else None
        if event is not None:
            event.record()
        return Launched(rows, copied, event, buffer)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._on_cuda).copy_(tensor, non_blocking=True)
