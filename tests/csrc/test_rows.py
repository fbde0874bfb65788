"""RMSNorm, RoPE with the append, SiLU * mul and the embedding against their definitions."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.decode_inputs import decode_inputs_reference
from kernels.embedding import embedding_reference
from kernels.native import library as native
from kernels.rms_norm import rms_norm_reference
from kernels.rope_append import rope_append_reference
from kernels.silu_mul import silu_mul_reference
from kernels.thinking_tables import State
from kernels.weights import LinearWeight
from tests.csrc.levels import FLOATS, assert_near
from tests.csrc.pages import from_pages

sweep = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(n=st.integers(1, 9), hidden=st.integers(1, 140), residual=st.booleans())
def test_rms_norm(ops: native.Operators, dtype: torch.dtype, n, hidden, residual):
    x, weight = torch.randn(n, hidden).to(dtype), torch.randn(hidden).to(dtype)
    r = torch.randn(n, hidden).to(dtype) if residual else None
    (y, total), (y_wanted, total_wanted) = ops.rms_norm(x, weight, 1e-6, r), rms_norm_reference(x, weight, 1e-6, r)
    assert torch.equal(total, total_wanted)
    assert_near(y, y_wanted)
    assert torch.equal(ops.rms_norm(x[:1], weight, 1e-6, None if r is None else r[:1])[0], y[:1])


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(
    n=st.integers(1, 9),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    half=st.integers(1, 70) | st.sampled_from([32, 64]),
    page_size=st.sampled_from([5, 32, 64]),
    normed=st.booleans(),
)
def test_rope_append(ops: native.Operators, dtype: torch.dtype, n, heads, half, page_size, normed):
    dim, (num_q, num_kv) = 2 * half, heads
    qkv, cos_sin = torch.randn(n, (num_q + 2 * num_kv) * dim).to(dtype), torch.randn(50, dim)
    positions, slots = torch.randint(0, 50, (n,)), torch.randperm(30)[:n]
    slots[0] = -1
    caches = [torch.zeros(6, num_kv, page_size, dim, dtype=dtype) for _ in range(4)]
    norm = {"qk_norm": torch.randn(2, dim).to(dtype), "eps": 1e-6} if normed else {}
    q = ops.rope_append(qkv, cos_sin, positions, slots, caches[0], caches[1], heads, **norm)
    wanted = rope_append_reference(qkv, cos_sin, positions, slots, caches[2], caches[3], heads, **norm)
    assert_near(q, wanted)
    keys, values = from_pages(ops.level, caches[0], caches[1])
    assert_near(keys, caches[2])
    assert torch.equal(values, caches[3])


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(n=st.integers(1, 5), features=st.integers(1, 80), scale=st.sampled_from([1.0, 30.0, 200.0]))
def test_silu_mul(ops: native.Operators, dtype: torch.dtype, n, features, scale):
    x = (scale * torch.randn(n, 2 * features)).to(dtype)
    assert_near(ops.silu_mul(x), silu_mul_reference(x))


@pytest.mark.parametrize("dtype", FLOATS)
def test_silu_mul_of_what_is_not_finite(ops: native.Operators, dtype: torch.dtype):
    gates = torch.tensor([torch.nan, torch.inf, -torch.inf, -100.0, 88.9, 1.0])
    x = torch.cat((gates, torch.ones(6)))[None].to(dtype)
    assert_near(ops.silu_mul(x), silu_mul_reference(x))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
def test_embedding_of_one_rank(ops: native.Operators, dtype: torch.dtype):
    ids, weight = torch.tensor([0, 4, 5, 24, 25, 7, 99]), torch.randn(20, 33).to(dtype)
    assert torch.equal(ops.embedding(ids, weight, 5), embedding_reference(ids, weight, 5))


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(rows=st.integers(1, 100), hidden=st.integers(1, 70), start=st.integers(0, 20))
def test_embedding_of_a_packed_head(ops: native.Operators, dtype: torch.dtype, rows, hidden, start):
    weight, ids = torch.randn(rows, hidden).to(dtype), torch.randint(0, 130, (9,))
    packed = ops.pack(LinearWeight(weight))
    assert torch.equal(ops.embedding_of_panels(ids, packed, start), embedding_reference(ids, weight, start))


@sweep
@given(
    n=st.integers(1, 9),
    page_size=st.sampled_from([1, 5, 64]),
    pages=st.integers(1, 6),
    fresh=st.integers(0, 9),
    seed=st.integers(0, 2**16),
)
def test_decode_inputs(ops: native.Operators, n, page_size, pages, fresh, seed):
    """Slots in any order and more than once (padding is), pages that this step enters, tables wider than it wants."""
    torch.manual_seed(seed)
    sequences, context = 6, pages * page_size
    state = torch.zeros(sequences, len(State), dtype=torch.int32)
    state[:, State.LENGTH] = torch.randint(1, context + 1, (sequences,))
    history = torch.randint(0, 2**31 - 1, (sequences, context + 1), dtype=torch.int32)
    blocks = torch.randint(0, 99, (sequences, pages + 1), dtype=torch.int32)
    inputs = torch.empty(3, n + 2, dtype=torch.int64)[:, :n]
    inputs[0], inputs[1], inputs[2] = torch.randint(0, sequences, (n,)), pages, blocks[0, pages]
    new = min(fresh, n)
    inputs[1, :new], inputs[2, :new] = torch.randperm(blocks.numel())[:new], torch.randint(0, 99, (new,))
    wanted_blocks = blocks.clone()
    found = ops.decode_inputs(inputs, state, history, blocks, page_size, pages)
    wanted = decode_inputs_reference(inputs, state, history, wanted_blocks, page_size, pages)
    assert torch.equal(blocks, wanted_blocks)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype is other.dtype and torch.equal(mine, other)
