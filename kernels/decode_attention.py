"""Paged decode attention: one query per row against the row's own pages.

out[b, h] = sum_t softmax_t(scale * q[b, h] . K[b, t]) V[b, t] over the first context_lens[b] keys.

The kernel packs the query heads of a KV head into the rows of one tile, so K and V are read once, and shares *all*
KV tiles of the batch evenly among a fixed number of programs (stream-K). Lengths are read from device memory: one
captured graph serves every context length, and a ragged batch is as balanced as an even one. A sequence that spans
programs leaves partial sums; the last program to arrive adds them up in program order, `_PARTS_AT_ONCE` of them in
flight, so the result does not depend on timing. A program takes two tiles at least: fewer programs leave fewer parts.
"""

import functools

import torch

from kernels import use_triton
from kernels.gemm_choices import dependent
from kernels.language import follow_previous_kernel, jit, jit_varying, launch, next_power_of_2, require_triton, tl
from kernels.native import library as native
from kernels.paged import attention_cost, gather_pages, softmax_step, tile_config

LOG2_E = 1.4426950408889634
_PARTS_AT_ONCE = 8
"""Of those that the last program adds up: so many are loaded at once, and their latencies overlap."""


def decode_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    max_context: int,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition: softmax in float32; zeros for a row without keys."""
    batch, num_q, head_dim = q.shape
    num_kv, page_size = k_cache.shape[1], k_cache.shape[2]
    tables = block_tables[:, : -(-max_context // page_size)]
    k = gather_pages(k_cache, tables, k_scale)
    v = gather_pages(v_cache, tables, v_scale)
    heads = q.float().view(batch, num_kv, num_q // num_kv, head_dim).transpose(0, 1)
    hidden = torch.arange(k.shape[2], device=q.device) >= context_lens[:, None]
    scores = (heads @ k.transpose(-1, -2) * scale).masked_fill(hidden[None, :, None], -torch.inf)
    # Slots past a row's length are whatever the page held, NaN included: 0 * NaN must not reach the sum.
    v = v.masked_fill(hidden[None, :, :, None], 0)
    weights = torch.softmax(scores, dim=-1).masked_fill((context_lens <= 0)[None, :, None, None], 0)
    return (weights @ v).transpose(0, 1).reshape(batch, num_q, head_dim).to(q.dtype)


@jit
def _slot(program, begin, share, longer):
    """Where program p leaves its part of what starts at tile `begin`: 2 p if that begins its range, else 2 p + 1."""
    return 2 * program + (program * share + tl.minimum(program, longer) < begin).to(tl.int32)


@jit
def _program_of(tile, share, longer):
    """The program that a tile belongs to."""
    short = tile - longer * (share + 1)
    return tl.where(short < 0, tile // (share + 1), longer + short // share)


@jit_varying("batch", "table_stride")
def _decode_attention_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    tables_ptr,
    lens_ptr,
    out_ptr,
    partial_ptr,
    stats_ptr,
    tickets_ptr,
    k_scale_ptr,
    v_scale_ptr,
    scale_log2,
    batch,
    table_stride,
    NUM_KV: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTISED: tl.constexpr,
    CHUNK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Tiles are numbered (row, KV head, tile of keys), rows slowest. Of T tiles each of P programs takes
    `share` = T / P, the first `longer` = T % P of them one more: program p begins at p * share + min(p, longer)."""
    follow_previous_kernel(DEPENDENT)
    rows = tl.arange(0, BLOCK_B)
    lens = tl.load(lens_ptr + rows, mask=rows < batch, other=0)
    # A row without keys still has one (masked) tile: that is what writes its zeros.
    tiles = tl.where(rows < batch, tl.maximum((lens + BLOCK_N - 1) // BLOCK_N, 1), 0)
    ends = tl.cumsum(tiles, 0) * NUM_KV
    total = tl.sum(tiles, 0) * NUM_KV
    programs = tl.maximum(tl.minimum(tl.num_programs(0), total // 2), 1)
    share, longer = total // programs, total % programs
    program = tl.minimum(tl.program_id(0), programs)  # those beyond have none
    start = program * share + tl.minimum(program, longer)
    stop = tl.minimum(start + share + (program < longer).to(tl.int32), total)

    head_row = tl.arange(0, BLOCK_M)
    key = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, HEAD_DIM)
    tile = start
    while tile < stop:
        row = tl.sum((ends <= tile).to(tl.int32), 0)
        row_tiles = tl.sum(tl.where(rows == row, tiles, 0), 0)
        length = tl.sum(tl.where(rows == row, lens, 0), 0)
        row_begin = tl.sum(tl.where(rows == row, ends, 0), 0) - row_tiles * NUM_KV
        head = (tile - row_begin) // row_tiles
        begin = row_begin + head * row_tiles
        end = begin + row_tiles
        last = tl.minimum(stop, end)

        query_head = row.to(tl.int64) * NUM_KV + head
        query = (query_head * GROUP + head_row[:, None]) * HEAD_DIM + dim[None, :]
        q = tl.load(q_ptr + query, mask=head_row[:, None] < GROUP, other=0.0)
        logit_scale = scale_log2
        if QUANTISED:
            logit_scale = scale_log2 * tl.load(k_scale_ptr + head)

        # A finite floor keeps exp2(-inf - floor) = 0 where a whole tile is masked; -inf would give NaN.
        top = tl.full([BLOCK_M], -1.0e30, tl.float32)
        total_weight = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
        for index in range(tile - begin, last - begin):
            position = index * BLOCK_N
            page = tl.load(tables_ptr + row.to(tl.int64) * table_stride + position // PAGE_SIZE).to(tl.int64)
            base = (page * NUM_KV + head) * (PAGE_SIZE * HEAD_DIM) + (position % PAGE_SIZE) * HEAD_DIM
            offset = base + key[:, None] * HEAD_DIM + dim[None, :]
            seen = position + key < length
            k = tl.load(k_cache_ptr + offset, mask=seen[:, None], other=0.0).to(q.dtype)
            v = tl.load(v_cache_ptr + offset, mask=seen[:, None], other=0.0).to(q.dtype)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * logit_scale
            logits = tl.where(seen[None, :], logits, -float("inf"))
            acc, top, total_weight = softmax_step(acc, top, total_weight, logits, v, PRECISION)

        finishes = (tile == begin) & (last == end)
        if not finishes:
            slot = _slot(program, begin, share, longer)
            part = head_row[:, None] * HEAD_DIM + dim[None, :]
            pair = head_row[:, None] * 2 + tl.arange(0, 2)[None, :]
            tl.store(partial_ptr + slot * (BLOCK_M * HEAD_DIM) + part, acc, mask=head_row[:, None] < GROUP)
            tl.store(stats_ptr + slot * (2 * BLOCK_M) + pair, tl.join(top, total_weight))
            tl.debug_barrier()  # every thread's part is written before one thread releases the ticket
            first_program = _program_of(begin, share, longer)
            parts = _program_of(end - 1, share, longer) - first_program + 1
            finishes = tl.atomic_add(tickets_ptr + query_head, 1, sem="acq_rel", scope="gpu") == parts - 1
            if finishes:
                tl.store(tickets_ptr + query_head, 0)  # ready for the next launch
                top = tl.full([BLOCK_M], -1.0e30, tl.float32)
                total_weight = tl.zeros([BLOCK_M], tl.float32)
                acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
                at = tl.arange(0, CHUNK)
                for chunk in range(0, parts, CHUNK):
                    slots = _slot(first_program + chunk + at, begin, share, longer)
                    there = (chunk + at < parts)[:, None, None]
                    stats = stats_ptr + slots[:, None, None] * (2 * BLOCK_M) + pair[None, :, :]
                    tops, weights = tl.split(tl.load(stats, mask=there, other=-1.0e30, cache_modifier=".cg"))
                    new_top = tl.maximum(top, tl.max(tops, 0))
                    shares = tl.where(chunk + at[:, None] < parts, tl.exp2(tops - new_top[None, :]), 0.0)
                    decay = tl.exp2(top - new_top)
                    total_weight = total_weight * decay + tl.sum(weights * shares, 0)
                    acc = acc * decay[:, None]
                    for piece in tl.static_range(CHUNK):
                        slot = _slot(first_program + chunk + piece, begin, share, longer)
                        values = tl.load(
                            partial_ptr + slot * (BLOCK_M * HEAD_DIM) + part,
                            mask=head_row[:, None] < tl.where(chunk + piece < parts, GROUP, 0),
                            other=0.0,
                            cache_modifier=".cg",
                        )
                        acc += values * tl.sum(tl.where(at[:, None] == piece, shares, 0.0), 0)[:, None]
                    top = new_top
        if finishes:
            out = acc / tl.where(total_weight == 0.0, 1.0, total_weight)[:, None]
            if QUANTISED:
                out = out * tl.load(v_scale_ptr + head)
            tl.store(out_ptr + query, out.to(out_ptr.dtype.element_ty), mask=head_row[:, None] < GROUP)
        tile = last


def decode_attention_config(q: torch.Tensor, cache: torch.Tensor, follows: bool = False) -> dict[str, int | str | bool]:
    """Constants for these shapes: 16 query rows at least (the tensor core's M), so 5 and 8 heads for a KV head are one.

    64 KiB of K and V are in flight, in two tiles of 32 KiB (128 values in 16 bits) or four that are smaller (64 values,
    or 8 bits): a tile waits for its page's number, so it takes two stages. Three sizes of the table of lengths,
    not one for each power of two: every one is a kernel to compile.
    """
    config = tile_config(q, cache)
    group, batch = int(config["GROUP"]), q.shape[0]
    tile_bytes = 2 * int(config["BLOCK_N"]) * q.shape[2] * cache.element_size()
    ahead = min(4, max(2, 2**16 // tile_bytes))
    return {
        **config,
        "BLOCK_B": next((size for size in (8, 64) if batch <= size), max(256, next_power_of_2(batch))),
        "BLOCK_M": max(16, next_power_of_2(group)),
        "CHUNK": _PARTS_AT_ONCE,
        "DEPENDENT": follows,
        **launch(num_warps=4, num_stages=2 * ahead + 1, dependent=follows),
    }


@functools.cache
def _workspace(
    device: torch.device, programs: int, block_m: int, head_dim: int, items: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Partial sums, their (maximum, weight) and the tickets, made once: the kernel leaves every ticket at zero.

    A captured graph keeps their addresses, so they are kept for good: one set for each power of two of rows. Launches
    that share them must be on one stream.
    """
    return (
        torch.empty(2 * programs, block_m, head_dim, dtype=torch.float32, device=device),
        torch.empty(2 * programs, 2, block_m, dtype=torch.float32, device=device),
        torch.zeros(items, dtype=torch.int32, device=device),
    )


def decode_attention_programs(device: torch.device) -> int:
    """Programs of the fixed grid: two per multiprocessor, so one loads while the other reduces."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def decode_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    programs: int | None = None,
) -> torch.Tensor:
    """The launcher. `programs` overrides the size of the grid."""
    require_triton()
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if q.shape[0] == 0:
        return out
    config = decode_attention_config(q, k_cache, dependent(q))
    programs = decode_attention_programs(q.device) if programs is None else programs
    items = next_power_of_2(q.shape[0] * k_cache.shape[1])
    partial, stats, tickets = _workspace(q.device, programs, int(config["BLOCK_M"]), q.shape[2], items)
    _decode_attention_kernel[(programs,)](
        q.contiguous(),
        k_cache,
        v_cache,
        block_tables,
        context_lens,
        out,
        partial,
        stats,
        tickets,
        k_scale,
        v_scale,
        scale * LOG2_E,
        q.shape[0],
        block_tables.stride(0),
        QUANTISED=k_scale is not None,
        **config,
    )
    return out


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    max_context: int,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """One query per row against the row's pages.

    q [B, Hq, D]; caches [num_pages, Hk, page_size, D]; block_tables [B, P] int32; context_lens [B] int32, keys of each
    row, at most `max_context`; k_scale and v_scale [Hk] float32 where the cache is float8 (value = stored * scale)
    -> [B, Hq, D] in q's dtype. A row without keys gives zeros.
    """
    if use_triton(q):
        return decode_attention_triton(q, k_cache, v_cache, block_tables, context_lens, scale, k_scale, v_scale)
    if k_scale is None and native.supports_pages(q, k_cache):
        return native.decode_attention(q, k_cache, v_cache, block_tables, context_lens, scale, max_context)
    return decode_attention_reference(
        q, k_cache, v_cache, block_tables, context_lens, scale, max_context, k_scale, v_scale
    )


def decode_attention_cost(
    context_lens: list[int], num_heads: tuple[int, int], head_dim: int, itemsize: int = 2, kv_itemsize: int = 2
) -> tuple[int, int]:
    """(bytes, flops) of one decode step over rows of these lengths, one layer."""
    keys = sum(context_lens)
    return attention_cost(len(context_lens), keys, keys, num_heads, head_dim, itemsize, kv_itemsize)
