"""Attention over pages against its definition, and that a query does not depend on how it was scheduled."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.attention import decode_attention_reference, prefill_attention_reference
from kernels.native import library as native
from tests.csrc.levels import FLOATS
from tests.csrc.pages import to_pages
from tests.rounding import assert_within, gamma, unit

sweep = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
heads = st.sampled_from([(1, 1), (4, 2), (7, 1), (14, 2), (10, 1)])
dims = st.sampled_from([8, 20, 64, 96, 128])


def pages(rows: int, context: int, num_kv: int, page_size: int, dim: int, dtype: torch.dtype):
    """Random caches with a block table of scattered pages; what no row owns is NaN."""
    per_row = -(-max(context, 1) // page_size)
    tables = (torch.randperm(rows * per_row) + 1).view(rows, per_row).int()
    caches = [torch.randn(rows * per_row + 1, num_kv, page_size, dim).to(dtype) for _ in range(2)]
    for cache in caches:
        cache[0] = torch.nan
    return caches[0], caches[1], tables


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, keys: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q [N, Hq, D] over the pages of one row, of which query i sees keys[i], in float64; and how far from
    it float32 may be, from the terms of its sums. Two of [N, Hq, D]."""
    group, dim, narrow = q.shape[1] // k.shape[1], q.shape[2], 0.0 if q.dtype is torch.float32 else unit(q.dtype)
    rows = [c[table.long()].transpose(0, 1).flatten(1, 2).repeat_interleave(group, 0).double() for c in (k, v)]
    hidden = torch.arange(rows[0].shape[1]) >= keys[:, None]
    seen, values = rows[0], rows[1].masked_fill(hidden.all(0)[:, None], 0)
    heads = q.double().transpose(0, 1)
    scores = (heads @ seen.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf)
    p = torch.softmax(scores, -1).nan_to_num(0.0)
    off = gamma(dim + 8) * (heads.abs() @ seen.abs().transpose(1, 2) * scale)  # of a score, so of its weight relatively
    off = p * off.masked_fill(hidden | scores.isinf(), 0)
    sizes = p @ values.abs()
    bound = off @ values.abs() + (off.sum(-1, keepdim=True) + gamma(int(keys.max()) + 16) + 2 * narrow) * sizes
    exact = p @ values
    return exact.transpose(0, 1), (bound + narrow * exact.abs()).transpose(0, 1)


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(
    lens=st.lists(st.integers(0, 600), min_size=1, max_size=4),
    heads=heads,
    dim=dims,
    page_size=st.sampled_from([1, 5, 16, 64]),
    seed=st.integers(0, 2**16),
)
def test_decode(ops: native.Operators, dtype: torch.dtype, lens, heads, dim, page_size, seed):
    torch.manual_seed(seed)
    k, v, tables = pages(len(lens), max(lens), heads[1], page_size, dim, dtype)
    q = torch.randn(len(lens), heads[0], dim).to(dtype)
    rest = (tables, torch.tensor(lens, dtype=torch.int32), dim**-0.5, max(lens))
    found, defined = (
        ops.decode_attention(q, *to_pages(ops.level, k, v), *rest),
        decode_attention_reference(q, k, v, *rest),
    )
    for row, keys in enumerate(rest[1]):
        exact, bound = attended(q[row : row + 1], k, v, tables[row], keys[None], rest[2])
        assert_within(found[row : row + 1], exact, bound)
        assert_within(defined[row : row + 1], exact, bound)


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(
    chunks=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 400)), min_size=1, max_size=3),
    heads=heads,
    dim=dims,
    page_size=st.sampled_from([5, 16, 64]),
    seed=st.integers(0, 2**16),
)
def test_prefill(ops: native.Operators, dtype: torch.dtype, chunks, heads, dim, page_size, seed):
    torch.manual_seed(seed)
    lens = [new + before for new, before in chunks]
    k, v, tables = pages(len(lens), max(lens), heads[1], page_size, dim, dtype)
    starts = torch.tensor([0] + [new for new, _ in chunks]).cumsum(0).int()
    q = torch.randn(int(starts[-1]), heads[0], dim).to(dtype)
    longest = max(new for new, _ in chunks)
    rest = (tables, torch.tensor(lens, dtype=torch.int32), starts, longest, dim**-0.5, max(lens))
    found = ops.prefill_attention(q, *to_pages(ops.level, k, v), *rest)
    defined = prefill_attention_reference(q, k, v, *rest)
    for row, (new, before) in enumerate(chunks):
        if new:
            part = slice(int(starts[row]), int(starts[row + 1]))
            exact, bound = attended(q[part], k, v, tables[row], before + 1 + torch.arange(new), rest[4])
            assert_within(found[part], exact, bound)
            assert_within(defined[part], exact, bound)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("dim", "page_size"), [(20, 16), (64, 64), (128, 64), (64, 16), (64, 5)])
def test_decode_prefill_and_chunks_give_the_same_bits(ops: native.Operators, dtype: torch.dtype, dim, page_size):
    length, scale = 530, dim**-0.5
    k, v, tables = pages(1, length, 2, page_size, dim, dtype)
    k, v = to_pages(ops.level, k, v)
    q = torch.randn(length, 6, dim).to(dtype)

    def chunk(first: int, last: int) -> torch.Tensor:
        lens, starts = torch.tensor([last]).int(), torch.tensor([0, last - first]).int()
        return ops.prefill_attention(q[first:last], k, v, tables, lens, starts, last - first, scale, last)

    whole = chunk(0, length)
    for first in range(0, length, 97):
        last = min(first + 97, length)
        assert torch.equal(chunk(first, last), whole[first:last])
    lens = torch.tensor([1, 63, 64, 65, 255, 256, 257, 512, 530]).int()
    rows = ops.decode_attention(q[lens.long() - 1], k, v, tables.expand(len(lens), -1), lens, scale, length)
    assert torch.equal(rows, whole[lens.long() - 1])
    alone = ops.decode_attention(q[-1:], k, v, tables, lens[-1:], scale, length)
    assert torch.equal(alone, whole[-1:])
    torch.set_num_threads(2)
    try:
        assert torch.equal(chunk(0, length), whole)
        again = ops.decode_attention(q[lens.long() - 1], k, v, tables.expand(len(lens), -1), lens, scale, length)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(again, rows)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_hidden_key_may_be_anything(ops: native.Operators, dtype: torch.dtype):
    """Keys and values after a query, and the rest of its last page, are never touched by its sum."""
    k, v, tables = pages(1, 40, 1, 16, 64, dtype)
    q = torch.randn(40, 2, 64).to(dtype)
    lens, starts = torch.tensor([40]).int(), torch.tensor([0, 40]).int()
    clean = ops.prefill_attention(q, *to_pages(ops.level, k, v), tables, lens, starts, 40, 0.125, 40)
    k[tables[0, 1].item(), 0, 4], v[tables[0, 1].item(), 0, 4] = torch.inf, torch.nan  # key 20
    dirty = ops.prefill_attention(q, *to_pages(ops.level, k, v), tables, lens, starts, 40, 0.125, 40)
    assert torch.equal(dirty[:20], clean[:20])
    assert dirty[20:].isnan().all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_of_minus_infinity_weigh_nothing(ops: native.Operators, dtype: torch.dtype):
    k, v, tables = pages(1, 200, 1, 16, 64, dtype)
    k[tables[0, :5].long(), 0, :, 0], q = -torch.inf, torch.rand(1, 1, 64).to(dtype) + 1
    lens = torch.tensor([200]).int()
    found = ops.decode_attention(q, *to_pages(ops.level, k, v), tables, lens, 0.125, 200)
    assert found.isfinite().all()
    assert_within(found, *attended(q, k, v, tables[0], lens, 0.125))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("context", [0, 3])
def test_queries_before_the_first_key_give_zeros(ops: native.Operators, dtype: torch.dtype, context: int):
    """A chunk of 66 with fewer keys than that, which no scheduler makes: the last `context` queries see some."""
    k, v, tables = pages(1, 64, 1, 64, 64, dtype)
    q, lens, starts = torch.randn(66, 1, 64).to(dtype), torch.tensor([context]).int(), torch.tensor([0, 66]).int()
    found = ops.prefill_attention(q, *to_pages(ops.level, k, v), tables, lens, starts, 66, 0.125, 64)
    assert (found[: 66 - context] == 0).all()
    if context:
        assert_within(found[-context:], *attended(q[-context:], k, v, tables[0], 1 + torch.arange(context), 0.125))
