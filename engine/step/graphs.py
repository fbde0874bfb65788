"""Captured decode steps: one CUDA graph per batch bucket, from the embedding to the thinking machine.

A bucket is padded with the dummy request (`engine.step.slots`). On the CPU nothing can be captured: the same step
function is called instead, on the same persistent, padded inputs and on the tables that were there when it was
"captured", and its result is copied to where a graph's would be. So whatever could go wrong in the bookkeeping goes
wrong on the CPU as well, where tests see it.

The CUDA part is not yet measured on a GPU.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.errors import InputError
from engine.model.batch import StepResult
from engine.step.slots import StepTables

BUCKETS = (1, 2, 4, *range(8, 65, 8), *range(80, 257, 16))
"""Rows of a captured step. Doubling beyond 8 would waste up to half of a step; finer steps save nothing, as the
kernels' tiles hold 16 rows."""


def buckets_for(max_num_seqs: int) -> tuple[int, ...]:
    """The buckets that batches of up to `max_num_seqs` use; larger batches than the last one run outside graphs."""
    enough = next((b for b in BUCKETS if b >= max_num_seqs), BUCKETS[-1])
    return tuple(b for b in BUCKETS if b <= enough)


@dataclass(frozen=True)
class StepKey:
    """What a captured step is good for."""

    bucket: int
    """Rows, padding included."""
    needs: int
    """Bits of engine.step.slots: work that the step does. More than its rows need is harmless."""
    top: int = 0
    """Best log-probabilities per row."""


@dataclass
class Capture:
    """A step that can be run again and again: `replay` queues it, `result` is where it leaves what it drew. Whatever
    becomes of the slot tables, it reads and writes `tables`."""

    replay: Callable[[], None]
    result: StepResult
    tables: StepTables


@dataclass
class CaptureReport:
    """What capturing took."""

    graphs: int = 0
    seconds: float = 0.0
    bytes: int = 0
    """Device memory, all graphs together."""


class StepGraphs:
    """The captured steps of one rank, made when they are first needed or all at the start."""

    def __init__(
        self,
        step: Callable[[StepKey, StepTables], StepResult],
        clear: Callable[[], None],
        max_num_seqs: int,
        device: torch.device,
    ) -> None:
        """`step` runs a step on the persistent inputs; after `clear` those are dummy requests in every row."""
        self._step, self._clear, self._device = step, clear, device
        self.buckets = buckets_for(max_num_seqs)
        self.report = CaptureReport()
        self._captures: dict[StepKey, Capture] = {}
        self._pool = self._stream = None
        if device.type == "cuda":
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def bucket(self, rows: int) -> int | None:
        """The least bucket that holds `rows`; None: there is none, the step runs outside the graphs."""
        return next((b for b in self.buckets if b >= rows), None)

    def get(self, key: StepKey, tables: StepTables) -> Capture:
        """The capture for `key` on `tables`. It overwrites the inputs where it must be made: write them afterwards."""
        found = self._captures.get(key)
        if found is not None and found.tables is not tables:
            self._drop()  # the others will be found as stale as this one
            found = None
        if found is None:
            found = self._captures[key] = self._capture(key, tables)
        return found

    def capture_all(self, needs: Sequence[int], tables: Callable[[int], StepTables]) -> CaptureReport:
        """Capture every bucket for each of these needs, the largest first: the others then fit into its memory.
        `tables` gives those for some needs."""
        for bucket in reversed(self.buckets):
            for bits in needs:
                self.get(StepKey(bucket, bits), tables(bits))
        return self.report

    def _capture(self, key: StepKey, tables: StepTables) -> Capture:
        start, before = time.monotonic(), self._free_bytes()
        self._clear()
        try:
            capture = self._plain(key, tables) if self._stream is None else self._graph(key, tables, self._stream)
        except torch.OutOfMemoryError:
            raise InputError(
                f"no memory is left on {self._device} to capture a step of {key.bucket} rows; lower max_num_seqs or "
                "kv_cache_tokens, or give --step-graphs off"
            ) from None
        self.report.graphs += 1
        self.report.seconds += time.monotonic() - start
        self.report.bytes += max(0, before - self._free_bytes())
        return capture

    def _plain(self, key: StepKey, tables: StepTables) -> Capture:
        result = self._step(key, tables)

        def replay() -> None:
            for kept, new in zip(result.tensors, self._step(key, tables).tensors, strict=True):
                kept.copy_(new)

        return Capture(replay, result, tables)

    def _graph(self, key: StepKey, tables: StepTables, stream: torch.cuda.Stream) -> Capture:
        # What is made at a first call (compiled kernels, workspaces, communicators) must not become part of the graph,
        # so the step runs first, on dummy requests and on the stream that captures it.
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(key, tables)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a caller's thread, or NCCL's watchdog, may go on calling CUDA while this one captures.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            result = self._step(key, tables)
        return Capture(graph.replay, result, tables)

    def _drop(self) -> None:
        if self._captures and self._stream is not None:
            torch.cuda.synchronize(self._device)  # one of them may be running
            self._pool = torch.cuda.graph_pool_handle()
        self._captures.clear()

    def _free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0] if self._stream is not None else 0
