"""RMSNorm, the same behind a sum over ranks, SiLU * mul, embedding, RoPE + append, inputs of a step: kernels against
definitions."""

import pytest
import torch

from kernels.all_reduce_norm import Parts, all_reduce_norm_reference, all_reduce_norm_triton
from kernels.decode_inputs import decode_inputs_reference, decode_inputs_triton
from kernels.embedding import embedding_reference, embedding_triton
from kernels.rms_norm import rms_norm_reference, rms_norm_triton
from kernels.rope_append import rope_append_reference, rope_append_triton
from kernels.silu_mul import silu_mul_reference, silu_mul_triton
from kernels.thinking_tables import State
from tests.kernels.paged_cases import DTYPES, TOLERANCE, error, typed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens, hidden", [(1, 64), (7, 896), (64, 100), (3, 5120)])
@pytest.mark.parametrize("residual", [False, True])
def test_rms_norm(device, dtype, tokens, hidden, residual):
    x, r = torch.randn(2, tokens, hidden, device=device).to(dtype)
    weight = torch.randn(hidden, device=device).to(dtype)
    y, h = rms_norm_triton(x, weight, 1e-6, r if residual else None)
    _, want_h = rms_norm_reference(x, weight, 1e-6, r if residual else None)
    want, _ = rms_norm_reference(want_h.float(), weight.float(), 1e-6)
    assert torch.equal(h, want_h)
    assert error(y, want) < TOLERANCE[dtype]
    assert torch.equal(y, rms_norm_triton(h, weight, 1e-6)[0]), "of the sum as it was rounded"


def test_rms_norm_of_a_zero_row_and_a_nan_row(device):
    x = torch.randn(4, 96, device=device)
    x[1], x[2] = 0, torch.nan
    y, _ = rms_norm_triton(x, torch.ones(96, device=device), 1e-6)
    assert (y[1] == 0).all() and y[2].isnan().all()
    assert torch.isfinite(y[[0, 3]]).all()


def parts_of(ranks: int, capacity: int, message: torch.Tensor) -> Parts:
    """Buffers of `ranks` ranks that begin with message[rank] and are NaN behind it."""
    buffers = [message.new_full((capacity,), torch.nan) for _ in range(ranks)]
    for buffer, part in zip(buffers, message, strict=True):
        buffer[: part.numel()] = part.flatten()
    return Parts.of(buffers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks, tokens, hidden", [(2, 1, 64), (3, 7, 896), (2, 64, 100), (8, 3, 5120)])
def test_all_reduce_norm(device, dtype, ranks, tokens, hidden):
    message = torch.randn(ranks, tokens, hidden, device=device).to(dtype)
    parts = parts_of(ranks, 2 * tokens * hidden, message)
    residual = torch.randn(tokens, hidden, device=device).to(dtype)
    weight = torch.randn(hidden, device=device).to(dtype)
    y, h = all_reduce_norm_triton(parts, weight, 1e-6, residual)
    _, want_h = all_reduce_norm_reference(parts, weight, 1e-6, residual)
    assert torch.equal(h, want_h), "the sum is in rank order, so its bits are known"
    want = message.double().sum(0) + residual.double()
    assert error(h, want) < TOLERANCE[dtype]
    assert error(y, rms_norm_reference(h.float(), weight.float(), 1e-6)[0]) < TOLERANCE[dtype]


def test_all_reduce_norm_adds_in_rank_order(device):
    """1e8 + 1 is 1e8 in float32: what is left of the 1 tells the order."""
    values, ones = torch.tensor([1e8, 1.0, -1e8], device=device), torch.ones(64, device=device)
    for order, left in (((0, 1, 2), 0.0), ((0, 2, 1), 1.0)):
        parts = parts_of(3, 64, (values[list(order), None] * ones)[:, None])
        _, h = all_reduce_norm_triton(parts, ones, 1e-6, torch.full((1, 64), 0.5, device=device))
        assert torch.equal(h, torch.full((1, 64), left + 0.5, device=device))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens, features", [(1, 64), (7, 1025), (64, 80)])
def test_silu_mul(device, dtype, tokens, features):
    x = (torch.randn(tokens, 2 * features, device=device) * 8).to(dtype)
    assert error(silu_mul_triton(x), silu_mul_reference(x.float())) < TOLERANCE[dtype]


def test_silu_mul_at_the_ends_of_the_range(device):
    """exp overflows for gates below -88; silu is 0 there, not NaN."""
    x = torch.tensor([[-1000.0, -89.0, 0.0, 89.0, 1000.0] + [2.0] * 5], device=device)
    assert torch.equal(silu_mul_triton(x), silu_mul_reference(x))


def test_a_nan_row_stays_in_its_row(device):
    """Of activations, of the embedding's weight, and of the rows that rope_append takes to a cache."""
    x = torch.randn(4, 160, device=device)
    x[2] = torch.nan
    others = [0, 1, 3]
    y = silu_mul_triton(x)
    assert y[2].isnan().all() and torch.isfinite(y[others]).all()
    y = embedding_triton(torch.arange(4, device=device), x)
    assert y[2].isnan().all() and torch.equal(y[others], x[others])
    slots, angles = torch.tensor([16, 17, 18, 31], device=device), torch.randn(9, 32, device=device)
    k, v = torch.zeros(2, 2, 1, 16, 32, device=device)
    q = rope_append_triton(x, angles, torch.arange(4, device=device), slots, k, v, (3, 1))
    assert q[2].isnan().all() and torch.isfinite(q[others]).all()
    for cache in (k, v):
        assert cache[1, 0, 2].isnan().all() and not cache[1, 0, [0, 1, *range(3, 16)]].isnan().any()
        assert (cache[0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_gives_zeros_for_ids_of_other_ranks(device, dtype):
    weight = torch.randn(40, 1030, device=device).to(dtype)
    ids = torch.tensor([0, 39, 40, 41, 79, 80, 1 << 40, -1], device=device)
    got = embedding_triton(ids, weight, vocab_start=40)
    assert torch.equal(got, embedding_reference(ids, weight, 40))
    assert (got[[0, 1, 5, 6, 7]] == 0).all() and torch.equal(got[4], weight[39])


@pytest.mark.parametrize(
    "dtype, num_heads, head_dim, page_size", typed([((8, 1), 64, 64), ((5, 1), 128, 128), ((2, 2), 128, 64)], {2})
)
@pytest.mark.parametrize("tokens", [1, 64])
def test_rope_append_of_one_row_and_of_many(device, dtype, num_heads, head_dim, page_size, tokens):
    """Slots in random order over whole pages, their first and last places included; one row is dropped."""
    qkv = torch.randn(tokens, (num_heads[0] + 2 * num_heads[1]) * head_dim, device=device).to(dtype)
    cos_sin, positions = torch.randn(70, head_dim, device=device), torch.arange(tokens, device=device)
    slots = torch.randperm(page_size, device=device)[:tokens] + page_size
    slots[: tokens // 2] += page_size
    slots[0] = 2 * page_size - 1 if tokens == 1 else -1
    caches = [torch.full((4, num_heads[1], page_size, head_dim), 7.0, device=device, dtype=dtype) for _ in range(4)]
    q = rope_append_triton(qkv, cos_sin, positions, slots, caches[0], caches[1], num_heads)
    want = rope_append_reference(qkv.float(), cos_sin, positions, slots, caches[2], caches[3], num_heads)
    assert error(q, want) < TOLERANCE[dtype]
    assert error(caches[0], caches[2]) < TOLERANCE[dtype] and torch.equal(caches[1], caches[3])
    kept = torch.ones(4 * page_size, dtype=torch.bool, device=device).index_fill(0, slots[slots >= 0], False)
    assert (caches[0].transpose(1, 2).flatten(0, 1)[kept] == 7.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "num_heads, head_dim, normed",
    [((14, 2), 64, False), ((5, 1), 128, False), ((4, 4), 48, False), ((5, 1), 128, True), ((14, 2), 48, True)],
)
def test_rope_append(device, dtype, num_heads, head_dim, normed):
    tokens, page_size = 7, 16
    qkv = torch.randn(tokens, (num_heads[0] + 2 * num_heads[1]) * head_dim, device=device).to(dtype)
    cos_sin = torch.randn(900, head_dim, device=device)
    positions = torch.tensor([0, 1, 15, 16, 899, 5, 5], device=device)
    slots = torch.tensor([16, 31, 32, -1, 79, 40, 47], device=device)
    caches = [torch.full((5, num_heads[1], page_size, head_dim), 7.0, device=device, dtype=dtype) for _ in range(4)]
    norm = {"qk_norm": torch.randn(2, head_dim, device=device).to(dtype), "eps": 1e-6} if normed else {}
    q = rope_append_triton(qkv, cos_sin, positions, slots, caches[0], caches[1], num_heads, **norm)
    want = rope_append_reference(qkv.float(), cos_sin, positions, slots, caches[2], caches[3], num_heads, **norm)
    assert error(q, want) < TOLERANCE[dtype]
    assert error(caches[0], caches[2]) < TOLERANCE[dtype] and torch.equal(caches[1], caches[3])
    untouched = caches[0][torch.ones(5, dtype=torch.bool, device=device).index_fill(0, slots[slots >= 0] // 16, False)]
    assert len(untouched) and (untouched == 7.0).all()


def test_rope_append_to_a_float8_cache(device):
    """Values that float8 holds exactly after the scaling: the interpreter drops the carry when it rounds to float8."""
    qkv = torch.randint(1, 16, (3, 8 * 64), device=device).float()
    cos_sin = torch.cat([torch.ones(9, 32), torch.zeros(9, 32)], 1).to(device)
    positions, slots = torch.tensor([0, 4, 8], device=device), torch.tensor([16, 17, 33], device=device)
    scales = torch.tensor([[0.5, 4.0], [2.0, 0.25]], device=device)
    caches = [torch.zeros(3, 2, 16, 64, device=device).to(torch.float8_e4m3fn) for _ in range(4)]
    rope_append_triton(qkv, cos_sin, positions, slots, caches[0], caches[1], (4, 2), scales[0], scales[1])
    rope_append_reference(qkv, cos_sin, positions, slots, caches[2], caches[3], (4, 2), scales[0], scales[1])
    for got, want, scale, first in ((caches[0], caches[2], scales[0], 4), (caches[1], caches[3], scales[1], 6)):
        assert torch.equal(got.float(), want.float())
        assert (got.float() != 0).sum() == 3 * 2 * 64
        heads = got.float()[1, :, 0] * scale[:, None]  # slot 16
        assert torch.equal(heads, qkv[0].view(8, 64)[first : first + 2])


def test_no_tokens(device):
    empty = torch.empty(0, 64, device=device)
    ids = torch.empty(0, dtype=torch.int64, device=device)
    assert rms_norm_triton(empty, empty.new_ones(64), 1e-6)[0].shape == (0, 64)
    parts = parts_of(2, 8, empty.new_empty(2, 0))
    assert all_reduce_norm_triton(parts, empty.new_ones(64), 1e-6, empty)[0].shape == (0, 64)
    assert silu_mul_triton(empty).shape == (0, 32)
    assert embedding_triton(ids, empty.new_ones(5, 64)).shape == (0, 64)
    cache = torch.ones(2, 1, 16, 16, device=device)
    assert rope_append_triton(empty, torch.ones(9, 16, device=device), ids, ids, cache, cache, (2, 1)).shape[0] == 0
    assert (cache == 1).all()


@pytest.mark.parametrize(
    "batch, page_size, pages, width, new", [(1, 16, 3, 3, 1), (7, 64, 5, 4, 7), (40, 16, 300, 290, 3)]
)
def test_decode_inputs(device, batch, page_size, pages, width, new):
    """Rows in any order and twice, padding that decodes the last slot, new pages of rows that decode and of others,
    tables wider than is wanted and longer than what is copied at once."""
    slots = batch + 3
    state = torch.zeros(slots, len(State), dtype=torch.int32, device=device)
    state[:, State.LENGTH] = torch.randint(1, width * page_size + 1, (slots,), device=device)
    history = torch.randint(0, 2**31 - 1, (slots, pages * page_size + 1), dtype=torch.int32, device=device)
    blocks = torch.randint(0, 99, (slots, pages), dtype=torch.int32, device=device)
    blocks[-1, 0] = 0
    inputs = torch.empty(3, batch + 2, dtype=torch.int64, device=device)[:, :batch]
    inputs[0] = torch.randperm(slots, device=device)[:batch]
    inputs[0, batch // 2 + 1 :] = slots - 1
    inputs[1], inputs[2] = (slots - 1) * pages, 0
    inputs[1, :new] = torch.randperm(blocks.numel() - pages, device=device)[:new]
    # The first row is that of slot 0, and the page that it writes to is entered last; another one lies behind `width`.
    inputs[0, 0], last = 0, (state[0, State.LENGTH] - 1) // page_size
    inputs[1, 0], inputs[1, new - 1] = width if width < pages else 0, last
    inputs[2, :new] = torch.arange(100, 100 + new, device=device)
    ours = blocks.clone()
    found = decode_inputs_triton(inputs, state, history, ours, page_size, width)
    want = decode_inputs_reference(inputs, state, history, blocks, page_size, width)
    assert torch.equal(ours, blocks)
    for name, value in want._asdict().items():
        got = getattr(found, name)
        assert got.dtype is value.dtype and torch.equal(got, value), name
