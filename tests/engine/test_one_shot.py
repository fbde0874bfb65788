"""The sum with residual and norm through shared buffers: ranks are threads here, buffers plain tensors, the barrier a
thread's. On a node torch's symmetric memory is in their place (not yet run on one)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from engine.ranks.one_shot import OneShotAllReduceNorm
from engine.ranks.spawn import spawn_ranks
from kernels.rms_norm import rms_norm_reference
from tests.engine.ranks import one_shot_worker
from tests.rounding import gamma

RANKS, CAPACITY, ROUNDS = 3, 512, 12


@dataclass
class ThreadBuffer:
    """One thread's view of everybody's buffers."""

    rank: int
    buffers: list[Tensor]
    met: threading.Barrier
    late: float
    """seconds that this rank takes from the barrier to its kernel"""
    world_size: int = RANKS

    def get_buffer(self, rank: int, sizes: list[int], dtype: torch.dtype, storage_offset: int = 0) -> Tensor:
        return self.buffers[rank][storage_offset : storage_offset + sizes[0]]

    def barrier(self, channel: int = 0, timeout_ms: int = 0) -> None:
        self.met.wait(timeout=30)
        time.sleep(self.late)


def parts_of_round(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """(parts [RANKS, N, H], weight [H], residual [N, H]) of a call; N varies."""
    generator = torch.Generator().manual_seed(number)
    tokens, hidden = 1 + number % 4, 64
    parts, residual = torch.randn(RANKS, tokens, hidden, generator=generator), torch.randn(tokens, hidden)
    return parts, torch.rand(hidden, generator=generator), residual.fill_(0.5 * number)


@pytest.mark.parametrize("slow", range(RANKS))
def test_one_barrier_a_sum_is_enough_whoever_is_late(slow: int) -> None:
    """A rank that reads late still finds all parts of its own call: two buffers take turns."""
    buffers = [torch.full((2 * CAPACITY,), torch.nan) for _ in range(RANKS)]
    met = threading.Barrier(RANKS)

    def run(rank: int) -> list[tuple[Tensor, Tensor]]:
        handle = ThreadBuffer(rank, buffers, met, 0.02 if rank == slow else 0.0)
        sums = OneShotAllReduceNorm(buffers[rank], handle)
        outputs = []
        for number in range(ROUNDS):
            parts, weight, residual = parts_of_round(number)
            outputs.append(sums(parts[rank], weight, 1e-6, residual))
        return outputs

    with ThreadPoolExecutor(RANKS) as pool:
        ranks = list(pool.map(run, range(RANKS)))
    for number in range(ROUNDS):
        parts, weight, residual = parts_of_round(number)
        want = rms_norm_reference(parts.sum(0), weight, 1e-6, residual)
        for rank in range(RANKS):
            for got, first, expected in zip(ranks[rank][number], ranks[0][number], want, strict=True):
                assert torch.equal(got, first), "the same bits on every rank"
                # a sum over ranks, then one of squares over a row
                bound = gamma(RANKS + parts.shape[-1] + 4)
                torch.testing.assert_close(got, expected, atol=bound * float(parts.abs().sum(0).max()), rtol=bound)


def test_addresses_that_are_not_the_buffers_are_refused() -> None:
    buffers = [torch.zeros(2 * CAPACITY) for _ in range(RANKS)]
    handle = ThreadBuffer(0, buffers, threading.Barrier(RANKS), 0.0)
    with pytest.raises(InputError, match="does not give a rank its own buffer"):
        OneShotAllReduceNorm(buffers[1], handle)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="a machine with two CUDA devices that read each other's memory runs it"
)
def test_two_gpus_agree_with_nccl(tmp_path: Path) -> None:
    group = spawn_ranks(2, one_shot_worker, (tmp_path,), "cuda")
    one_shot_worker(group, tmp_path)
    group.close()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(first["one_shot"], second["one_shot"]) and torch.equal(first["one_shot"], first["captured"])
    torch.testing.assert_close(first["one_shot"], first["nccl"], atol=0.05, rtol=0.01)  # one rounding and two
