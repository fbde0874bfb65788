"""The operators' benchmark: all layers in one call beside their parts, on a tiny model."""

import pytest
import torch

from bench import kernels
from bench.ceilings import measure_here
from bench.shapes import SHAPES
from kernels.native import library as native
from kernels.native.decoder import PARTS


@pytest.mark.skipif(not native.LOADED, reason=native.REASON)
def test_layers_and_their_parts(monkeypatch):
    monkeypatch.setattr(kernels, "_COLD_BYTES", 2**20)
    device, shape = torch.device("cpu"), SHAPES["tiny"]
    ceilings = measure_here(device, buffer_bytes=2**22, matmul_size=64)
    operations = list(kernels.layers(shape, 2, 40, device, torch.bfloat16))
    assert tuple(op.name for op in operations) == kernels.LAYERS
    assert {op.size for op in operations} == {"2x40"}
    assert all(kernels.figures(op, ceilings, device, False)["us"] > 0 for op in operations)
    whole, *parts = (op.cost[0] for op in operations)
    read_once = dict(zip(PARTS, parts, strict=True))
    del read_once["norm"], read_once["append"]
    assert whole == shape.num_layers * sum(read_once.values())
