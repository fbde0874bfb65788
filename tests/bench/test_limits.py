"""kernels/limits.py against values worked out by hand for Qwen2.5-32B, 7B and 0.5B."""

import math
from dataclasses import replace

import pytest

from bench.shapes import SHAPES
from engine.build import pages_that_fit
from engine.config import EngineConfig
from kernels.decode_attention import decode_attention_cost
from kernels.limits import (
    H100,
    H200,
    UNKNOWN,
    Device,
    Limits,
    all_reduce_seconds,
    known_device,
    matrices,
    summary,
)
from kernels.linear import linear_cost
from train.metrics import GPUS

SHAPE = SHAPES["qwen2.5-32b"]


def ms(limits: Limits, batch: int, context: int) -> float:
    return round(limits.step_seconds(batch, context) * 1e3, 1)


def test_matrices_of_32b():
    # 7168 x 5120 x 2 bytes = 73.4 MB, and so on; one layer 975.2 MB; the head 1557 MB
    sizes = {m.name: m.rows * m.cols * 2 / 1e6 for m in matrices(SHAPE)}
    assert {name: round(size, 1) for name, size in sizes.items()} == {
        "qkv": 73.4,
        "o": 52.4,
        "gate_up": 566.2,
        "down": 283.1,
        "head": 1557.1,
    }
    assert round(sum(size for name, size in sizes.items() if name != "head"), 1) == 975.2


def test_bytes_of_32b():
    limits = Limits(SHAPE, H200)
    # 64 x 487,587,840 + 778,567,680 matrix values, 64 x (10240 + 7168) + 5120 vector values, 2 bytes each
    assert limits.streamed_bytes == 2 * (64 * 487_587_840 + 778_567_680 + 64 * 17_408 + 5_120)
    assert round(limits.streamed_bytes / 1e9, 2) == 63.97
    assert round(limits.resident_bytes / 1e9, 1) == 65.5
    assert limits.kv_bytes_per_token == 256 * 1024
    assert Limits(SHAPE, H200, kv_bytes=1).kv_bytes_per_token == 128 * 1024


def test_flops_of_32b():
    limits = Limits(SHAPE, H200)
    assert round(limits.step_flops(1, 0) / 1e9) == 64
    per_context_token = limits.step_flops(1, 1) - limits.step_flops(1, 0)
    assert per_context_token == 4 * 64 * 40 * 128 == 1_310_720
    # 1,024 tokens: 2 x 31,205,621,760 x 1024 + one head row + 1.31 MFLOP x 524,800 visible keys
    assert limits.prefill_flops(1024) == 2 * 31_205_621_760 * 1024 + 2 * 778_567_680 + 1_310_720 * 524_800
    assert round(limits.prefill_seconds(1024) * 1e3) == 82
    assert round(limits.compute_bound_batch()) == 184
    assert round(Limits(SHAPE, H100).compute_bound_batch()) == 266


@pytest.mark.parametrize(
    "device, ranks, batch, expected",
    [
        (H200, 1, 1, (14.9, 15.4, 16.9)),
        (H200, 1, 8, (15.4, 18.9, 30.9)),
        (H200, 1, 64, (18.9, 46.8, 142.7)),
        (H200, 1, 256, (30.9, 142.7, 526.3)),
        (H200, 2, 1, (8.4, 8.6, 9.3)),
        (H200, 2, 64, (11.2, 25.2, 73.1)),
        (H200, 4, 8, (4.8, 5.6, 8.6)),
        (H200, 4, 256, (10.7, 38.7, 134.5)),
        (H200, 8, 1, (2.8, 2.8, 3.0)),
        (H200, 8, 256, (6.8, 20.8, 68.8)),
        (H100, 1, 1, (21.4, 22.0, 24.2)),
        (H100, 2, 8, (11.9, 14.4, 23.0)),
        (H100, 8, 1, (3.6, 3.7, 3.9)),
        (H100, 8, 256, (8.5, 28.5, 97.3)),
    ],
)
def test_step_milliseconds(device, ranks, batch, expected):
    limits = Limits(SHAPE, device, ranks)
    assert tuple(ms(limits, batch, context) for context in (1024, 8192, 32768)) == expected


def test_quantised_weights():
    steps = [
        ms(Limits(SHAPE, H200, ranks, weight_bytes), 1, 4096)
        for weight_bytes in (2, 1, 0.5625)
        for ranks in (1, 2, 4, 8)
    ]
    assert steps == [15.1, 8.5, 4.7, 2.8, 7.7, 4.7, 2.8, 1.9, 4.4, 3.1, 2.0, 1.5]


@pytest.mark.parametrize(
    "device, ranks, weight_bytes, kv_bytes, resident, step_ms, tokens_per_second",
    [
        (H200, 1, 2, 2, 65, 32.1, 2024),
        (H200, 1, 2, 1, 131, 32.3, 4061),
        (H200, 1, 1, 2, 91, 31.6, 2881),
        (H200, 1, 1, 1, 183, 31.7, 5770),
        (H200, 1, 0.5625, 2, 102, 31.2, 3264),
        (H200, 2, 2, 2, 184, 34.4, 5354),
        (H200, 4, 2, 2, 421, 35.7, 11802),
        (H200, 8, 2, 2, 895, 38.6, 23192),
        (H100, 4, 2, 2, 211, 28.1, 7514),
        (H100, 1, 2, 2, 13, 26.3, 495),
    ],
)
def test_memory_full(device, ranks, weight_bytes, kv_bytes, resident, step_ms, tokens_per_second):
    # prompt 256, outputs of 8192: the time-average context is 256 + 4096
    limits = Limits(SHAPE, device, ranks, weight_bytes, kv_bytes)
    assert limits.resident_sequences(4352) == resident
    assert ms(limits, resident, 4352) == step_ms
    assert limits.tokens_per_second(resident, 4352) == pytest.approx(tokens_per_second, rel=1e-3)


def test_resident_where_32k_are_reserved():
    assert Limits(SHAPE, H200).resident_sequences(32768) == 8
    assert round(Limits(SHAPE, H200).kv_pool_tokens, -3) == 286_000
    assert Limits(SHAPE, Device("small", 1e12, 1e14, 40e9)).resident_sequences(1) == 0


@pytest.mark.parametrize("device", [H100, H200], ids=["H100", "H200"])
@pytest.mark.parametrize("weight_bytes, kv_bytes", [(2, 2), (2, 1), (1, 1)])
def test_a_plan_and_the_engine_say_the_same_about_what_fits(device, weight_bytes, kv_bytes):
    limits = Limits(SHAPE, device, 1, weight_bytes, kv_bytes)
    free = int(device.memory - 0.6e9 - limits.resident_bytes)  # as the driver tells the engine, the weights loaded
    config = EngineConfig(max_num_seqs=1000)
    pages = pages_that_fit(config, free, "cuda", int(limits.kv_bytes_per_token) * 64, 65536, 64)
    assert 0 < pages == limits.kv_pool_tokens // 64
    assert device in GPUS, "the trainer's plan knows the card from the same place"


def test_a_step_is_the_sum_of_its_operators_costs():
    limits, batch, context = Limits(SHAPE, H200), 8, 1024
    costs = [linear_cost(batch, m.rows, m.cols) for m in matrices(SHAPE) for _ in range(m.count)]
    attention = decode_attention_cost([context] * batch, (40, 8), 128)
    flops = sum(flops for _, flops in costs) + 64 * attention[1]
    assert limits.step_flops(batch, context) == flops
    moved = sum(moved for moved, _ in costs) + 64 * attention[0]
    # the operators also move activations, which the limit leaves out: about 1 % at this batch
    assert limits.step_bytes(batch, context) < moved < 1.01 * limits.step_bytes(batch, context)


def test_all_reduce_points():
    assert all_reduce_seconds(10240) == 7e-6
    assert all_reduce_seconds(2**20) == pytest.approx(15.6e-6)
    assert all_reduce_seconds(2**18) == pytest.approx(7e-6 + 13.7e-6 * 0.1875)


def test_a_head_of_8_bits_shares_nothing_with_the_embedding():
    """Whether it is said to be like the other matrices or to have 8 bits itself."""
    eight = Limits(SHAPES["qwen2.5-0.5b"], H100, weight_bytes=1)
    assert eight.resident_bytes == eight.streamed_bytes + 2 * 151936 * 896
    assert replace(eight, head_bytes=1).resident_bytes == eight.resident_bytes


def test_tied_and_replicated_heads():
    small = SHAPES["qwen2.5-0.5b"]
    limits = Limits(small, UNKNOWN)
    # 24 x (1152 x 896 + 896 x 896 + 3 x 4864 x 896) + 151936 x 896 matrix values: 494.0 M with the vectors
    assert limits.streamed_bytes == limits.resident_bytes == 2 * 494_032_768
    assert limits.kv_bytes_per_token == 2 * 24 * 2 * 64 * 2
    assert Limits(small, UNKNOWN, 4).kv_bytes_per_token == 2 * limits.kv_bytes_per_token  # 2 heads, 4 ranks
    assert Limits(small, UNKNOWN, weight_bytes=4).streamed_bytes == 4 * 494_032_768


def test_prefill_reads_the_weights_where_the_prompt_is_short():
    limits = Limits(SHAPE, H200)
    assert limits.prefill_seconds(1) == pytest.approx(limits.streamed_bytes / 4.3e12)
    assert limits.prefill_flops(10, cached=90) == pytest.approx(
        2 * 31_205_621_760 * 10 + 2 * 778_567_680 + 1_310_720 * (900 + 55)
    )


def test_summary():
    line = summary(Limits(SHAPE, H200), 239_000)
    assert line == (
        "63.97 GB of weights per step, 256 KiB of KV per token, room for 239,000 tokens; limit at batch 1, "
        "1,024 tokens of context: 14.9 ms per token (67 tok/s) on H200"
    )
    assert "limit" not in summary(Limits(SHAPES["40m"], UNKNOWN), 4096)
    assert math.isinf(UNKNOWN.bandwidth)


def test_known_device():
    assert known_device("NVIDIA H200") is H200
    assert known_device("NVIDIA H100 80GB HBM3") is H100
    for other in (
        "NVIDIA GeForce RTX 4090",
        "NVIDIA GH200 480GB",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ):
        assert known_device(other) is None, other
