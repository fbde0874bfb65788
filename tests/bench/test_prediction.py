"""The model of a step: its launches are those that the engine makes, its bytes those of the limits."""

from collections import Counter
from dataclasses import replace

import pytest

from bench.prediction import CELLS, L2_RATE, SM_RATE, SMS, TRIP, WAYS, Launch, launches, predict
from bench.shapes import SHAPES
from kernels.limits import H100, H200, Limits, vector_params


@pytest.mark.parametrize("batch, way, each, more", [(1, "plain", 9, 7), (64, "folded", 6, 8), (65, "dependent", 9, 7)])
def test_it_has_the_launches_of_the_dry_run(batch, way, each, more):
    """`tests/engine/test_dry_run.py` counts those of the engine: as many, of the same kinds."""
    found = Counter(launch.name for launch in launches("qwen2.5-32b", batch, 1024, way))
    assert sum(found.values()) == 64 * each + more
    assert found["norm"] == (2 if each == 6 else 129) and found["activation"] == (0 if each == 6 else 64)
    assert all(found[name] == 64 for name in ("qkv", "rotation", "attention", "o", "gate_up", "down"))


@pytest.mark.parametrize("device", [H100, H200], ids=lambda device: device.name)
@pytest.mark.parametrize("way", WAYS)
def test_it_reads_what_the_limit_reads_and_takes_longer(device, way):
    limits = Limits(SHAPES["qwen2.5-32b"], device)
    for cell in CELLS[device.name].folded:
        batch, context = map(int, cell.split("x"))
        found = predict(device, batch, context, way)
        vectors = 2 * vector_params(SHAPES["qwen2.5-32b"])
        assert found.read == pytest.approx(limits.step_bytes(batch, context) - vectors)
        assert 0.7 < limits.step_seconds(batch, context) / found.seconds < 0.97
        assert min(found.gaps, found.idle, found.streaming) > 0
    order = [predict(device, 1, 1024, each).seconds for each in WAYS]
    assert order == sorted(order, reverse=True), "each way is there to be faster at batch 1"


def test_beyond_64_rows_every_way_is_plain():
    """A kernel behind cuBLAS starts as a plain launch does."""
    assert len({predict(H200, 65, 1024, way) for way in WAYS}) == 1


def test_too_few_programs_cannot_keep_memory_busy():
    """By hand: 264 programs fill the card; 16 of them pull 16 times what one multiprocessor gets."""
    full = Launch("x", read=264e6, programs=264)
    assert full.stream(H200) == pytest.approx(264e6 / H200.bandwidth)
    few = replace(full, programs=16, read=16e6)
    assert few.stream(H200) == pytest.approx(16e6 / (16 * 2**16 / TRIP))
    assert replace(few, in_flight=1e6).stream(H200) == pytest.approx(16e6 / (16 * SM_RATE))
    tail = replace(full, programs=280, read=280e6)
    assert tail.stream(H200) == pytest.approx(full.stream(H200) + few.stream(H200))
    assert replace(full, cached=1e9).stream(H200) == pytest.approx((264e6 + 1e9) / L2_RATE)
    assert SMS == 132
