"""How times are taken on a GPU, without one: what is queued around the call."""

import torch

from bench.timing import repeat
from kernels.dry_run import CUDA, DryRun


def test_the_cache_is_flushed_by_reading() -> None:
    """Written lines would go back to memory while the call is timed: of an operator that moves less than 100 MB a good
    part of its time."""
    with DryRun() as dry:
        x = torch.ones(8, device=CUDA)
        with dry.tracing() as trace:
            times = repeat(lambda: x + 1, CUDA, min_calls=4, min_seconds=0)
    assert times.median == 1e-3 and len(times.seconds) == 4
    names = [name for name, _ in trace.entries]
    first = names.index("aten.add.Tensor", 1)  # the warm-up, then the buffer is made
    assert names[first - 1 :] == ["aten.sum.default", "aten.add.Tensor"] * 4
    size, itemsize = next(args[0][0][2][0] for name, args in trace.entries if name == "aten.sum.default"), 4
    assert size * itemsize >= 2 * 50 * 2**20, "twice the L2 cache of an H100"
