"""Paged attention for prefill: chunks of queries of several rows, each against its own pages.

Query i of row r sees keys 0 .. context_lens[r] - q_len + i: causal, aligned bottom right, so a chunk in the middle of
a prompt and a whole prompt are one case. FlashAttention-2's recurrence (arXiv 2307.08691); tiles before the diagonal
skip the mask.
"""

import torch
import torch.nn.functional as F

from kernels import use_triton
from kernels.decode_attention import LOG2_E
from kernels.language import cdiv, jit_varying, launch, require_triton, tl
from kernels.native import library as native
from kernels.paged import attention_cost, gather_pages, softmax_step, tile_config


def prefill_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_q: torch.Tensor,
    max_q: int,
    scale: float,
    max_context: int,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition, a row at a time: scaled dot product attention under the causal mask aligned bottom right."""
    page_size = k_cache.shape[2]
    group = q.shape[1] // k_cache.shape[1]
    out = torch.zeros_like(q)
    starts, lengths = cu_q.tolist(), context_lens.tolist()
    for row, keys in enumerate(lengths):
        first, last = starts[row], starts[row + 1]
        if first == last:
            continue
        tables = block_tables[row : row + 1, : -(-keys // page_size)]
        k = gather_pages(k_cache, tables, k_scale)[:, 0, :keys].to(q.dtype).repeat_interleave(group, dim=0)
        v = gather_pages(v_cache, tables, v_scale)[:, 0, :keys].to(q.dtype).repeat_interleave(group, dim=0)
        queries = q[first:last].transpose(0, 1)
        visible = torch.ones(last - first, keys, dtype=torch.bool, device=q.device).tril(keys - (last - first))
        attended = F.scaled_dot_product_attention(queries[None], k[None], v[None], attn_mask=visible, scale=scale)
        out[first:last] = attended[0].transpose(0, 1)
    return out


@jit_varying("tables_ptr", "lens_ptr", "table_stride")
def _prefill_attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    tables_ptr,
    lens_ptr,
    cu_q_ptr,
    out_ptr,
    k_scale_ptr,
    v_scale_ptr,
    scale_log2,
    table_stride,
    NUM_KV: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTISED: tl.constexpr,
):
    """Program (block of queries, query head, row); blocks past a row's chunk return at once."""
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = tl.load(cu_q_ptr + row).to(tl.int64)
    q_len = (tl.load(cu_q_ptr + row + 1) - first).to(tl.int32)
    if block * BLOCK_M >= q_len:
        return
    length = tl.load(lens_ptr + row)
    query = block * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = query[:, None] < q_len
    dim = tl.arange(0, HEAD_DIM)
    at = ((first + query[:, None]) * (NUM_KV * GROUP) + head) * HEAD_DIM + dim[None, :]
    q = tl.load(q_ptr + at, mask=inside, other=0.0)

    kv_head = head // GROUP
    logit_scale = scale_log2
    if QUANTISED:
        logit_scale = scale_log2 * tl.load(k_scale_ptr + kv_head)
    k_ptr = k_cache_ptr + kv_head * (PAGE_SIZE * HEAD_DIM)
    v_ptr = v_cache_ptr + kv_head * (PAGE_SIZE * HEAD_DIM)
    table_ptr = tables_ptr + row * table_stride
    before = length - q_len
    visible = before + query + 1
    unmasked = (before + block * BLOCK_M + 1) // BLOCK_N
    tiles = (tl.minimum(length, before + (block + 1) * BLOCK_M) + BLOCK_N - 1) // BLOCK_N

    top = tl.full([BLOCK_M], -1.0e30, tl.float32)
    total_weight = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    key = tl.arange(0, BLOCK_N)
    for masked in tl.static_range(2):  # tiles that every query sees whole, then the others
        for index in range(unmasked if masked else 0, tiles if masked else unmasked):
            position = index * BLOCK_N
            page = tl.load(table_ptr + position // PAGE_SIZE).to(tl.int64)
            base = page * (NUM_KV * PAGE_SIZE * HEAD_DIM) + (position % PAGE_SIZE) * HEAD_DIM
            offset = base + key[:, None] * HEAD_DIM + dim[None, :]
            if masked:
                written = (position + key < length)[:, None]
                k = tl.load(k_ptr + offset, mask=written, other=0.0).to(q.dtype)
                v = tl.load(v_ptr + offset, mask=written, other=0.0).to(q.dtype)
            else:
                k = tl.load(k_ptr + offset).to(q.dtype)
                v = tl.load(v_ptr + offset).to(q.dtype)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * logit_scale
            if masked:
                logits = tl.where((position + key)[None, :] < visible[:, None], logits, -float("inf"))
            acc, top, total_weight = softmax_step(acc, top, total_weight, logits, v, PRECISION)
    out = acc / tl.where(total_weight == 0.0, 1.0, total_weight)[:, None]
    if QUANTISED:
        out = out * tl.load(v_scale_ptr + kv_head)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def prefill_attention_config(q: torch.Tensor, cache: torch.Tensor) -> dict[str, int | str | bool]:
    """Constants for these shapes: 128 query rows over two warp groups; float32 and short chunks take smaller tiles."""
    block_m = 128 if q.element_size() == 2 else 32
    return {**tile_config(q, cache), "BLOCK_M": block_m, **launch(num_warps=8 if block_m == 128 else 4, num_stages=3)}


def prefill_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_q: torch.Tensor,
    max_q: int,
    scale: float,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """The launcher."""
    require_triton()
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if q.shape[0] == 0:
        return out
    config = prefill_attention_config(q, k_cache)
    grid = (cdiv(max_q, int(config["BLOCK_M"])), q.shape[1], context_lens.shape[0])
    _prefill_attention_kernel[grid](
        q.contiguous(),
        k_cache,
        v_cache,
        block_tables,
        context_lens,
        cu_q,
        out,
        k_scale,
        v_scale,
        scale * LOG2_E,
        block_tables.stride(0),
        QUANTISED=k_scale is not None,
        **config,
    )
    return out


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_q: torch.Tensor,
    max_q: int,
    scale: float,
    max_context: int,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Chunks of queries against their pages; query i of row r sees keys 0 .. context_lens[r] - q_len + i.

    q [N, Hq, D]; caches [num_pages, Hk, page_size, D]; block_tables [R, P] int32; context_lens [R] int32 (this chunk
    included); cu_q [R + 1] int32, row r's queries are cu_q[r] .. cu_q[r + 1] - 1, at most `max_q`; k_scale and v_scale
    [Hk] float32 where the cache is float8 -> [N, Hq, D] in q's dtype.
    """
    if use_triton(q):
        return prefill_attention_triton(
            q, k_cache, v_cache, block_tables, context_lens, cu_q, max_q, scale, k_scale, v_scale
        )
    if k_scale is None and native.supports_pages(q, k_cache):
        return native.prefill_attention(
            q, k_cache, v_cache, block_tables, context_lens, cu_q, max_q, scale, max_context
        )
    return prefill_attention_reference(
        q, k_cache, v_cache, block_tables, context_lens, cu_q, max_q, scale, max_context, k_scale, v_scale
    )


def prefill_attention_cost(
    chunks: list[tuple[int, int]], num_heads: tuple[int, int], head_dim: int, itemsize: int = 2, kv_itemsize: int = 2
) -> tuple[int, int]:
    """(bytes, flops) of prefill chunks given as (q_len, context_len), one layer."""
    pairs = sum(q * c - q * (q - 1) // 2 for q, c in chunks)
    queries, keys = sum(q for q, _ in chunks), sum(c for _, c in chunks)
    return attention_cost(queries, keys, pairs, num_heads, head_dim, itemsize, kv_itemsize)
