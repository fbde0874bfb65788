"""Paged attention kernels against their definitions over shapes that hurt."""

import pytest
import torch

from kernels.decode_attention import decode_attention_reference, decode_attention_triton
from kernels.errors import KernelError
from kernels.prefill_attention import prefill_attention_reference, prefill_attention_triton
from tests.kernels.paged_cases import DTYPES, HALF_TYPES, TOLERANCE, Paged, error, paged_cache, typed


def decode_error(q: torch.Tensor, cache: Paged, programs: int) -> float:
    scale = q.shape[2] ** -0.5
    got = decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, scale, programs=programs)
    want = decode_attention_reference(
        q.float(), cache.k.float(), cache.v.float(), cache.tables, cache.lens, scale, cache.longest
    )
    assert (got[cache.lens == 0] == 0).all()
    return error(got, want)


RAGGED = [600, 1, 64, 0, 65, 63, 130]
SHAPES = [  # lengths, query heads, KV heads, head_dim, page size, programs
    ([1], 1, 1, 64, 16, 4),
    ([64], 8, 8, 64, 64, 3),
    (RAGGED, 5, 1, 128, 64, 11),
    (RAGGED, 16, 2, 64, 16, 5),
    ([5000], 5, 1, 128, 64, 7),
    ([37 * i % 90 for i in range(64)], 7, 1, 64, 32, 24),
    ([16, 32, 48], 3, 3, 128, 16, 1),
    ([33, 2], 20, 1, 32, 16, 40),
    (RAGGED, 8, 1, 128, 128, 5),
    ([127, 128, 129, 256, 257, 1, 0], 10, 2, 64, 128, 13),
    ([0, 0], 2, 1, 64, 16, 4),
]


@pytest.mark.parametrize("dtype, lens, num_q, num_kv, head_dim, page_size, programs", typed(SHAPES, {2, 7}))
def test_decode(device, dtype, lens, num_q, num_kv, head_dim, page_size, programs):
    cache = paged_cache(lens, num_kv, head_dim, page_size, dtype, device)
    q = torch.randn(len(lens), num_q, head_dim, device=device).to(dtype)
    assert decode_error(q, cache, programs) < TOLERANCE[dtype]


def test_no_order_of_programs_changes_a_bit(device, order):
    """Parts are added up in the order of their programs, by whichever comes last."""
    torch.manual_seed(1)
    cache = paged_cache([500, 3, 0, 129, 64], 2, 32, 16, torch.float32, device)
    q = torch.randn(5, 6, 32, device=device)
    arguments = (q, cache.k, cache.v, cache.tables, cache.lens, 0.2)
    for programs in (2, 5, 13):
        got = decode_attention_triton(*arguments, programs=programs)
        assert torch.equal(got, IN_ORDER.setdefault(programs, got))
        assert decode_error(q, cache, programs) < TOLERANCE[torch.float32]


IN_ORDER: dict[int, torch.Tensor] = {}
"""What the first order gave, by the number of programs."""


def test_the_tickets_are_ready_for_the_next_launch(device):
    """Two launches over one workspace: the second one counts its splits from zero again."""
    cache = paged_cache([300, 40], 2, 64, 16, torch.float32, device)
    for _ in range(2):
        assert decode_error(torch.randn(2, 8, 64, device=device), cache, programs=9) < TOLERANCE[torch.float32]


def test_the_result_does_not_depend_on_the_split_beyond_rounding(device):
    cache = paged_cache([500, 3], 1, 64, 16, torch.float32, device)
    q = torch.randn(2, 4, 64, device=device)
    results = [
        decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, 0.125, programs=p) for p in (1, 2, 33)
    ]
    bound = TOLERANCE[torch.float32]
    assert error(results[1], results[0]) < bound and error(results[2], results[0]) < bound


def test_a_nan_query_stays_in_its_row(device):
    cache = paged_cache([100, 50, 70], 2, 64, 16, torch.float32, device)
    q = torch.randn(3, 4, 64, device=device)
    clean = decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, 0.125, programs=5)
    q[1] = torch.nan
    got = decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, 0.125, programs=5)
    assert got[1].isnan().all() and torch.equal(got[[0, 2]], clean[[0, 2]])


def test_nan_keys_and_values_stay_in_their_row(device):
    cache = paged_cache([100, 50, 70], 2, 64, 16, torch.float32, device)
    q = torch.randn(3, 4, 64, device=device)
    cu_q = torch.arange(4, dtype=torch.int32, device=device)

    def both() -> list[torch.Tensor]:
        arguments = (q, cache.k, cache.v, cache.tables, cache.lens)
        return [
            decode_attention_triton(*arguments, 0.125, programs=5),
            prefill_attention_triton(*arguments, cu_q, 1, 0.125),
        ]

    clean = both()
    cache.k[cache.tables[1, 0].long(), :, 3] = torch.nan
    cache.v[cache.tables[1, 1].long(), :, 5] = torch.nan
    for got, before in zip(both(), clean, strict=True):
        assert got[1].isnan().all() and torch.equal(got[[0, 2]], before[[0, 2]])


def test_decode_over_a_float8_cache(device):
    dtype = HALF_TYPES[-1]
    cache = paged_cache([70, 16, 1], 2, 64, 16, dtype, device)
    stored = Paged(cache.k.to(torch.float8_e4m3fn), cache.v.to(torch.float8_e4m3fn), cache.tables, cache.lens)
    scales = torch.rand(2, 2, device=device) + 0.5
    q = torch.randn(3, 10, 64, device=device).to(dtype)
    got = decode_attention_triton(q, stored.k, stored.v, stored.tables, stored.lens, 0.125, scales[0], scales[1])
    want = decode_attention_reference(
        q.float(), stored.k, stored.v, stored.tables, stored.lens, 0.125, 70, scales[0], scales[1]
    )
    assert error(got, want) < TOLERANCE[dtype]


def test_shapes_the_kernels_do_not_take_are_refused(device):
    q = torch.randn(1, 2, 48, device=device)
    cache = paged_cache([5], 1, 48, 16, torch.float32, device)
    with pytest.raises(KernelError, match="head_dim is 48"):
        decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, 1.0)
    cache = paged_cache([5], 1, 64, 24, torch.float32, device)
    with pytest.raises(KernelError, match="page size is 24"):
        decode_attention_triton(torch.randn(1, 2, 64, device=device), cache.k, cache.v, cache.tables, cache.lens, 1.0)


@pytest.mark.parametrize("dtype, num_q, num_kv, head_dim, page_size", typed([(5, 1, 64, 16), (2, 2, 128, 64)], {1}))
def test_prefill_of_mixed_chunks(device, dtype, num_q, num_kv, head_dim, page_size):
    """A whole prompt, a chunk in the middle, an empty row, one token at a page boundary, a chunk over 128 queries."""
    q_lens, lens = [33, 20, 0, 1, 130], [33, 150, 40, 65, 131]
    cache = paged_cache(lens, num_kv, head_dim, page_size, dtype, device)
    cu_q = torch.tensor([0, *q_lens], device=device).cumsum(0).to(torch.int32)
    q = torch.randn(sum(q_lens), num_q, head_dim, device=device).to(dtype)
    scale = head_dim**-0.5
    got = prefill_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, cu_q, max(q_lens), scale)
    want = prefill_attention_reference(
        q.float(), cache.k.float(), cache.v.float(), cache.tables, cache.lens, cu_q, max(q_lens), scale, cache.longest
    )
    assert error(got, want) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "q_lens, lens, num_q, num_kv, head_dim, page_size",
    [
        ([1], [1], 1, 1, 64, 64),
        pytest.param([40], [5000], 5, 1, 128, 64, marks=pytest.mark.slow),
        ([40], [600], 5, 1, 128, 64),
        ([20, 1, 17, 0, 65, 3, 1], [600, 1, 64, 0, 65, 63, 130], 8, 1, 64, 128),
        pytest.param(
            [i % 2 for i in range(64)], [37 * i % 90 + 1 for i in range(64)], 8, 1, 128, 64, marks=pytest.mark.slow
        ),
    ],
)
def test_prefill(device, dtype, q_lens, lens, num_q, num_kv, head_dim, page_size):
    """One key; a chunk at the end of many; ragged rows of up to 600; a batch of 64 with rows that have none."""
    cache = paged_cache(lens, num_kv, head_dim, page_size, dtype, device)
    cu_q = torch.tensor([0, *q_lens], device=device).cumsum(0).to(torch.int32)
    q = torch.randn(sum(q_lens), num_q, head_dim, device=device).to(dtype)
    scale = head_dim**-0.5
    got = prefill_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, cu_q, max(q_lens), scale)
    want = prefill_attention_reference(
        q.float(), cache.k.float(), cache.v.float(), cache.tables, cache.lens, cu_q, max(q_lens), scale, cache.longest
    )
    assert error(got, want) < TOLERANCE[dtype]


def test_a_nan_query_of_a_prefill_stays_in_its_row(device):
    cache = paged_cache([33, 20], 1, 64, 16, torch.float32, device)
    cu_q = torch.tensor([0, 9, 20], dtype=torch.int32, device=device)
    q = torch.randn(20, 2, 64, device=device)
    clean = prefill_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, cu_q, 11, 0.125)
    q[4] = torch.nan
    got = prefill_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, cu_q, 11, 0.125)
    others = [i for i in range(20) if i != 4]
    assert got[4].isnan().all() and torch.equal(got[others], clean[others])


def test_no_rows(device):
    cache = paged_cache([5], 1, 64, 16, torch.float32, device)
    none, q = torch.empty(0, dtype=torch.int32, device=device), torch.empty(0, 2, 64, device=device)
    cu_q = torch.zeros(1, dtype=torch.int32, device=device)
    assert decode_attention_triton(q, cache.k, cache.v, cache.tables[:0], none, 1.0).shape == (0, 2, 64)
    assert prefill_attention_triton(q, cache.k, cache.v, cache.tables[:0], none, cu_q, 0, 1.0).shape == (0, 2, 64)


def test_prefill_of_one_token_is_decode(device):
    cache = paged_cache([77, 16], 2, 64, 16, torch.float32, device)
    q = torch.randn(2, 4, 64, device=device)
    cu_q = torch.arange(3, dtype=torch.int32, device=device)
    prefill = prefill_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, cu_q, 1, 0.125)
    decode = decode_attention_triton(q, cache.k, cache.v, cache.tables, cache.lens, 0.125)
    assert error(prefill, decode) < TOLERANCE[torch.float32]


def test_prefill_over_a_float8_cache(device):
    dtype = HALF_TYPES[-1]
    cache = paged_cache([40], 2, 64, 16, dtype, device)
    k, v = cache.k.to(torch.float8_e4m3fn), cache.v.to(torch.float8_e4m3fn)
    scales = torch.rand(2, 2, device=device) + 0.5
    q = torch.randn(9, 4, 64, device=device).to(dtype)
    cu_q = torch.tensor([0, 9], dtype=torch.int32, device=device)
    got = prefill_attention_triton(q, k, v, cache.tables, cache.lens, cu_q, 9, 0.125, scales[0], scales[1])
    want = prefill_attention_reference(
        q.float(), k, v, cache.tables, cache.lens, cu_q, 9, 0.125, 40, scales[0], scales[1]
    )
    assert error(got, want) < TOLERANCE[dtype]
