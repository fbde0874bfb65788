"""All layers in one call give the bits of the operators called one by one."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.native import library as native
from kernels.native.decoder import PARTS, Layer, NativeDecoder
from kernels.quantize import QuantizedMatrix
from kernels.weights import LinearWeight
from tests.csrc.levels import FLOATS

EPS, PAGE = 1e-6, 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_parts_are_those_of_the_interface():
    (listed,) = re.findall(r"enum S1Part : int32_t \{(.*?)\};", (ROOT / "csrc" / "cpu" / "abi.h").read_text())
    names = [f"S1_{part.upper()}" for part in PARTS]
    assert [name.strip() for name in listed.split(",")] == [*names, "S1_PARTS"]


def layer(
    ops: native.Operators, hidden: int, heads: tuple[int, int], dim: int, features: int, dtype, int8, normed=False
) -> Layer:
    def product(rows: int, cols: int, bias: bool = False) -> LinearWeight:
        matrix = (torch.randn(rows, cols) / cols**0.5).to(dtype)
        added = torch.randn(rows).to(dtype) if bias else None
        if int8:
            return ops.pack(LinearWeight.of(QuantizedMatrix.of(matrix, torch.int8), added))
        return ops.pack(LinearWeight(matrix, added))

    queries, keys = heads
    return Layer(
        input_norm=torch.rand(hidden).to(dtype),
        qkv=product((queries + 2 * keys) * dim, hidden, bias=not normed),
        qk_norm=torch.rand(2, dim).to(dtype) if normed else None,
        output=product(hidden, queries * dim),
        mlp_norm=torch.rand(hidden).to(dtype),
        gate_up=product(2 * features, hidden),
        down=product(hidden, features),
    )


def one_by_one(
    ops: native.Operators,
    layers: list[Layer],
    norm: Tensor,
    cos_sin: Tensor,
    kv,
    heads: tuple[int, int],
    scale: float,
    x: Tensor,
    positions: Tensor,
    slots: Tensor,
    tables: Tensor,
    lens: Tensor,
    cu_q: Tensor,
    decodes: int,
) -> Tensor:
    """The order of engine.model.decoder.Decoder.forward."""
    residual = None
    for at, (k_cache, v_cache) in zip(layers, kv, strict=True):
        y, residual = ops.rms_norm(x, at.input_norm, EPS, residual)
        q = ops.rope_append(ops.linear(y, at.qkv), cos_sin, positions, slots, k_cache, v_cache, heads, at.qk_norm, EPS)
        parts = []
        if decodes:
            parts.append(
                ops.decode_attention(q[:decodes], k_cache, v_cache, tables[:decodes], lens[:decodes], scale, 0)
            )
        if decodes < len(x):
            rest = tables[decodes:], lens[decodes:], cu_q
            parts.append(ops.prefill_attention(q[decodes:], k_cache, v_cache, *rest, 0, scale, 0))
        x = ops.linear(torch.cat(parts).flatten(1), at.output)
        y, residual = ops.rms_norm(x, at.mlp_norm, EPS, residual)
        x = ops.linear(ops.linear_silu_mul(y, at.gate_up), at.down)
    return ops.rms_norm(x, norm, EPS, residual)[0]


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from([(48, (4, 2), 16, 64), (130, (2, 2), 32, 45), (896, (7, 1), 64, 1216)]),
    contexts=st.lists(st.integers(1, 300), max_size=5),
    chunks=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=3),
    int8=st.booleans(),
    normed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_decoder_equals_its_operators(ops, dtype, threads, shape, contexts, chunks, int8, normed, seed):
    if not contexts and not chunks:
        return
    hidden, heads, dim, features = shape
    torch.manual_seed(seed)
    layers = [layer(ops, hidden, heads, dim, features, dtype, int8, normed) for _ in range(2)]
    norm, cos_sin, scale = torch.rand(hidden).to(dtype), torch.randn(512, dim), dim**-0.5
    lens = [*contexts, *(start + count for start, count in chunks)]
    pages = -(-max(lens) // PAGE)
    tables = (1 + torch.randperm(len(lens) * pages, dtype=torch.int32)).reshape(len(lens), pages)
    at = [(row, n - 1) for row, n in enumerate(contexts)]
    at += [(len(contexts) + i, start + j) for i, (start, count) in enumerate(chunks) for j in range(count)]
    positions = torch.tensor([position for _, position in at])
    slots = torch.tensor([int(tables[row, p // PAGE]) * PAGE + p % PAGE for row, p in at])
    slots[0] = -1  # a row that writes nothing still reads
    cu_q = torch.tensor([0, *torch.tensor([count for _, count in chunks] or [0]).cumsum(0)], dtype=torch.int32)
    cache = 1 + len(lens) * pages, heads[1], PAGE, dim
    kv = [(torch.randn(cache).to(dtype), torch.randn(cache).to(dtype)) for _ in layers]
    twin = [(k.clone(), v.clone()) for k, v in kv]
    x = torch.randn(len(at), hidden).to(dtype)
    step = positions, slots, tables, torch.tensor(lens, dtype=torch.int32), cu_q, len(contexts)

    decoder = NativeDecoder(layers, norm, cos_sin, kv, heads, EPS, scale, ops.decoder)
    seconds, start = torch.zeros(len(PARTS), dtype=torch.float64), time.perf_counter()
    found = decoder.forward(x.clone(), *step, seconds)
    assert seconds.min() > 0 and seconds.sum() < time.perf_counter() - start
    wanted = one_by_one(ops, layers, norm, cos_sin, twin, heads, scale, x, *step)
    assert wanted.isfinite().all()
    assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for pair in zip(kv, twin, strict=True) for a, b in zip(*pair, strict=True))


def test_pages_of_another_type_are_left_to_the_operators(ops):
    dtype = torch.bfloat16
    layers = [layer(ops, 48, (4, 2), 16, 64, dtype, False)]
    norm, shape = torch.ones(48, dtype=dtype), (3, 2, PAGE, 16)

    def caches(kind: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind))]

    assert NativeDecoder.supports(layers, norm, caches(dtype))
    assert not NativeDecoder.supports(layers, norm, caches(torch.float32))
    assert not NativeDecoder.supports(layers, norm, caches(torch.float8_e4m3fn))
