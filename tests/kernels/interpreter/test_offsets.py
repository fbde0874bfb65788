"""Offsets past 2^31 values: pages x heads x dim, vocabulary x hidden, batch x vocabulary.

The buffers are reserved address space, of which the tests touch a few pages.
"""

import mmap

import pytest
import torch

from kernels import INTERPRET
from kernels.decode_attention import decode_attention_reference, decode_attention_triton
from kernels.embedding import embedding_triton
from kernels.prefill_attention import prefill_attention_triton
from kernels.rope_append import rope_append_triton
from kernels.sampler import Real, SamplingNeeds, SamplingTables, Whole
from kernels.sampler_triton import sample_triton
from kernels.thinking import MachineTables, Param, State
from tests.kernels.paged_cases import error

BEYOND = 2**31 + 2**20
LAZY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # named from Python 3.13


@pytest.fixture(params=[torch.float16])
def buffer(request, device) -> torch.Tensor:
    """More than 2^31 values of 16 bits."""
    if not INTERPRET:
        return torch.zeros(BEYOND, dtype=request.param, device=device)
    memory = mmap.mmap(-1, 2 * BEYOND, flags=LAZY)
    return torch.frombuffer(memory, dtype=request.param)


def test_attention_and_append_beyond_2_31_values(buffer, device):
    cache = buffer[: BEYOND // (8 * 64 * 128) * (8 * 64 * 128)].view(-1, 8, 64, 128)
    last = cache.shape[0] - 1
    assert last * 8 * 64 * 128 > 2**31
    qkv = torch.randn(2, 24 * 128, device=device).half()
    slots = torch.tensor([last * 64 + 0, last * 64 + 1], device=device)
    cos_sin = torch.cat([torch.ones(2, 64), torch.zeros(2, 64)], 1).to(device)
    # One tensor serves as both caches: V is written over K, which the comparison allows for.
    rope_append_triton(qkv, cos_sin, torch.tensor([0, 1], device=device), slots, cache, cache, (8, 8))
    written = cache[last, :, :2].transpose(0, 1)
    k, v = qkv.view(2, 24, 128)[:, 8:16], qkv.view(2, 24, 128)[:, 16:]
    assert ((written == k) | (written == v)).all()

    tables = torch.full((1, 1), last, dtype=torch.int32, device=device)
    lens = torch.tensor([2], dtype=torch.int32, device=device)
    q = torch.randn(1, 8, 128, device=device).half()
    want = decode_attention_reference(q.float(), cache[last:].float(), cache[last:].float(), tables * 0, lens, 1.0, 2)
    assert error(decode_attention_triton(q, cache, cache, tables, lens, 1.0), want) < 4e-3
    cu_q = torch.tensor([0, 1], dtype=torch.int32, device=device)
    assert error(prefill_attention_triton(q, cache, cache, tables, lens, cu_q, 1, 1.0), want) < 4e-3


def test_embedding_beyond_2_31_values(buffer, device):
    weight = buffer[: BEYOND // 64 * 64].view(-1, 64)
    row = weight.shape[0] - 1
    weight[row] = torch.arange(64, device=device).half()
    got = embedding_triton(torch.tensor([row + 5, 5], device=device), weight, vocab_start=5)
    assert torch.equal(got[0], weight[row]) and (got[1] == 0).all()


def test_sampler_rows_beyond_2_31_values(device):
    """Logits, biases and counts whose rows lie 2^30 values apart: the third one starts at 2^31."""
    vocab, stride = 300, 2**30

    def rows(dtype: torch.dtype) -> torch.Tensor:
        if INTERPRET:
            buffer = torch.frombuffer(mmap.mmap(-1, dtype.itemsize * (2 * stride + vocab), flags=LAZY), dtype=dtype)
        else:
            buffer = torch.zeros(2 * stride + vocab, dtype=dtype, device=device)
        return buffer.as_strided((3, vocab), (stride, 1))

    logits = rows(torch.float32)
    logits.fill_(-1.0)
    want = torch.tensor([7, 123, 299], device=device)
    logits[torch.arange(3, device=device), want] = 50.0

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.int32, device=device)

    real = torch.zeros(3, len(Real), device=device)
    real[:, Real.TEMPERATURE], real[:, Real.TOP_P] = 1.0, 0.9
    real[:, Real.REPETITION], real[:, Real.PRESENCE] = 100.0, 1000.0
    machine = MachineTables(
        zeros(3, len(State)),
        zeros(3, len(Param)),
        zeros(3, 4, 2),
        zeros(3, 1) - 1,
        zeros(3, 1),
        zeros(3, 1),
        zeros(3, 4),
        zeros(1),
        torch.zeros(vocab, dtype=torch.uint8),
    )
    tables = SamplingTables(real, zeros(3, len(Whole)))
    for filters in (False, True):
        needs = SamplingNeeds(noise=True, filters=filters, masked=True)
        got = sample_triton(logits, tables, machine, torch.arange(3, device=device), vocab, needs)
        assert torch.equal(got.draw, want) and torch.equal(got.masked, want) and not got.bad.any()

    # Row r draws 200 + r, whose bias is right; without the count 30 + r would win, without the prompt 60 + r.
    row = torch.arange(3, device=device)
    tables = SamplingTables(real, tables.whole, rows(torch.float32), rows(torch.int32), rows(torch.bool))
    tables.bias[row, 200 + row], tables.bias[row, 30 + row] = 200.0, 300.0
    tables.counts[row, 30 + row] = 1
    logits[row, 60 + row], tables.in_prompt[row, 60 + row] = 400.0, True
    needs = SamplingNeeds(noise=True, penalties=True, bias=True, masked=True)
    got = sample_triton(logits, tables, machine, row, vocab, needs)
    assert torch.equal(got.draw, 200 + row) and torch.equal(got.masked, 200 + row) and not got.bad.any()
