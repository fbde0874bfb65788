"""The torch definitions against float64 loops and transformers, and the public operators against the definitions."""

import math
from dataclasses import replace

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from kernels.attention import (
    decode_attention,
    decode_attention_cost,
    decode_attention_reference,
    prefill_attention,
    prefill_attention_cost,
    prefill_attention_reference,
)
from kernels.copy_pages import copy_pages
from kernels.embedding import embedding
from kernels.gemm_choices import Choice, Product, pick, read_choices, write_choices
from kernels.linear import head, linear, linear_cost, linear_norm, linear_silu_mul, pack
from kernels.rms_norm import rms_norm
from kernels.rope_append import rope_append
from kernels.silu_mul import silu_mul
from kernels.small_gemm import GemmConfig
from kernels.weights import LinearWeight
from tests.csrc.pages import to_pages_here
from tests.kernels.paged_cases import Paged, error, paged_cache
from tests.rounding import sums

DTYPES = {torch.float32: sums(64 + 8), torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest error, relative to the largest value: sums of 64 terms, and what stands around them; or a few roundings."""


def naive(q: torch.Tensor, cache: Paged, row: int, keys: int, scale: float) -> torch.Tensor:
    """One query [Hq, D] over `keys` keys of a row, a head and a key at a time, in float64."""
    num_q, page_size = q.shape[0], cache.k.shape[2]
    group = num_q // cache.k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for h in range(num_q):
        slots = [(cache.tables[row, t // page_size], h // group, t % page_size) for t in range(keys)]
        weights = [math.exp(float(q[h].double() @ cache.k[s].double()) * scale) for s in slots]
        for weight, s in zip(weights, slots, strict=True):
            out[h] += weight / sum(weights) * cache.v[s].double()
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attend", [decode_attention, decode_attention_reference])
def test_decode_attention(dtype, attend):
    torch.manual_seed(0)
    cache = paged_cache([1, 16, 17, 0, 33], 2, 32, 16, dtype)
    q = torch.randn(5, 6, 32).to(dtype)
    pages = to_pages_here(cache.k, cache.v) if attend is decode_attention else (cache.k, cache.v)
    got = attend(q, *pages, cache.tables, cache.lens, 0.2, 33)
    want = torch.stack([naive(q[r], cache, r, int(cache.lens[r]), 0.2) for r in range(5)])
    assert error(got, want) < DTYPES[dtype] and (got[3] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attend", [prefill_attention, prefill_attention_reference])
def test_prefill_attention(dtype, attend):
    torch.manual_seed(0)
    lens, q_lens = [9, 20, 5, 17], [9, 4, 0, 1]
    cache = paged_cache(lens, 2, 32, 16, dtype)
    q, cu_q = torch.randn(14, 4, 32).to(dtype), torch.tensor([0, 9, 13, 13, 14], dtype=torch.int32)
    pages = to_pages_here(cache.k, cache.v) if attend is prefill_attention else (cache.k, cache.v)
    got = attend(q, *pages, cache.tables, cache.lens, cu_q, 9, 0.2, 20)
    want = [
        naive(q[cu_q[r] + i], cache, r, lens[r] - q_lens[r] + i + 1, 0.2) for r in range(4) for i in range(q_lens[r])
    ]
    assert error(got, torch.stack(want)) < DTYPES[dtype]


def test_rope_is_that_of_transformers_and_k_and_v_land_in_their_slots():
    torch.manual_seed(0)
    qkv, angles = torch.randn(3, 8 * 16), torch.randn(10, 8)
    cos_sin, positions = torch.cat([angles.cos(), angles.sin()], 1), torch.tensor([4, 0, 9])
    k_cache, v_cache = torch.zeros(3, 2, 4, 16), torch.zeros(3, 2, 4, 16)
    q = rope_append(qkv, cos_sin, positions, torch.tensor([5, -1, 11]), k_cache, v_cache, (4, 2))
    heads = qkv.view(3, 8, 16).transpose(0, 1)[None]
    cos, sin = angles[positions].cos().repeat(1, 2)[None], angles[positions].sin().repeat(1, 2)[None]
    want_q, want_k = apply_rotary_pos_emb(heads[:, :4], heads[:, 4:6], cos, sin)
    torch.testing.assert_close(q, want_q[0].transpose(0, 1))
    torch.testing.assert_close(k_cache[1, :, 1], want_k[0, :, 0])
    torch.testing.assert_close(v_cache[2, :, 3], heads[0, 6:, 2])
    assert (k_cache != 0).sum() == (v_cache != 0).sum() == 2 * 2 * 16  # -1 wrote nothing


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_and_products(dtype):
    torch.manual_seed(0)
    x, residual, gain = torch.randn(5, 64).to(dtype), torch.randn(5, 64).to(dtype), torch.randn(64).to(dtype)
    y, h = rms_norm(x, gain, 1e-6, residual)
    assert torch.equal(h, x + residual)
    want = h.double() / (h.double().square().mean(1, keepdim=True) + 1e-6).sqrt() * gain.double()
    assert error(y, want) < DTYPES[dtype]
    gate, up = x.double().chunk(2, 1)
    assert error(silu_mul(x), gate / (1 + (-gate).exp()) * up) < DTYPES[dtype]
    w = pack(LinearWeight((torch.randn(96, 64) / 8).to(dtype), torch.randn(96).to(dtype)))
    assert w.bias is not None
    product = x.double() @ w.weight.double().T + w.bias.double()
    assert error(linear(x, w), product) < DTYPES[dtype]
    more, gains = torch.randn(5, 96).to(dtype), torch.randn(96).to(dtype)
    y, h = linear_norm(x, w, more, gains, 1e-6)
    assert error(h, product + more) < DTYPES[dtype] and torch.equal(y, rms_norm(h, gains, 1e-6)[0])
    gate, up = product.chunk(2, 1)
    assert error(linear_silu_mul(x, w), gate / (1 + (-gate).exp()) * up) < 2 * DTYPES[dtype]
    logits = head(x, w)
    assert logits.dtype == torch.float32 and error(logits, product) < DTYPES[dtype]


def test_the_shards_of_an_embedding_add_up():
    weight, ids = torch.randn(10, 8), torch.tensor([0, 4, 5, 9])
    parts = embedding(ids, weight[:5], 0) + embedding(ids, weight[5:], 5)
    assert torch.equal(parts, weight[ids])


def test_pages_are_read_before_any_is_written():
    cache = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 2, 3, 4)
    copy_pages([cache], torch.tensor([1, 2]), torch.tensor([2, 3]))
    assert cache[:, 0, 0, 0].tolist() == [0, 1, 1, 2]


def test_costs_are_those_of_a_qwen_32b_layer():
    """By hand: qkv 7168 x 5120 in bf16 is 73.4 MB; 256 KiB of KV per token over 64 layers; causal pairs of a prompt."""
    assert linear_cost(1, 7168, 5120)[0] == pytest.approx(73.4e6, rel=1e-3)
    assert linear_cost(8, 7168, 5120)[1] == 2 * 8 * 7168 * 5120
    moved, flops = decode_attention_cost([1000, 24], (40, 8), 128)
    assert moved == 1024 * 256 * 1024 // 64 + 2 * 2 * 40 * 128 * 2 and flops == 4 * 1024 * 40 * 128
    assert prefill_attention_cost([(3, 3)], (1, 1), 64)[1] == 4 * (1 + 2 + 3) * 64
    assert prefill_attention_cost([(2, 10)], (1, 1), 64)[1] == 4 * (9 + 10) * 64


def test_the_gemm_table_is_kept_and_read(tmp_path):
    rows = [
        Choice("GPU", Product.PLAIN, 5120, 5120, tokens, GemmConfig(split_k=split), 10.0, 12.0)
        for tokens, split in ((64, 2), (8, 4))
    ]
    write_choices(rows, tmp_path / "table.json")
    read = read_choices(tmp_path / "table.json")
    assert set(read) == set(rows)
    key = "GPU", Product.PLAIN, "bfloat16", 5120, 5120
    narrow, wide = (pick(read, key, n) for n in (8, 9))
    assert narrow is not None and wide is not None and (narrow.split_k, wide.split_k) == (4, 2)
    assert pick(read, key, 65) is None
    only_wide = tuple(replace(row, least=9) for row in read if row.tokens == 64)
    assert pick(only_wide, key, 8) is None  # cuBLAS won there
    assert pick(only_wide, key, 9) is not None
    assert pick(read, ("another GPU", *key[1:]), 1) is None
    assert pick(read, (*key[:2], "int8", *key[3:]), 8) is None, "measured with weights of 16 bits"


def test_every_row_of_the_kept_table_was_faster_than_its_rival():
    assert all(choice.ours_us < choice.rival_us for choice in read_choices())
