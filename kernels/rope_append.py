"""Rotary embedding of Q and K and the append of K and V to the paged cache, from one fused QKV row.

Hugging Face's rotate-half convention: with a head x = (x1 | x2), out = (x1 cos - x2 sin | x2 cos + x1 sin). Where the
model has it (Qwen3), each head of Q and K goes through an RMSNorm of its own first.
"""

import torch

from kernels import use_triton
from kernels.gemm_choices import dependent
from kernels.language import cdiv, follow_previous_kernel, jit, launch, next_power_of_2, require_triton, tl
from kernels.native import library as native
from kernels.quantize import to_float8
from kernels.rms_norm import rms_norm_reference


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [N, heads, D], cos and sin [N, 1, D/2] float32 -> rotated, float32 inside, in x's dtype."""
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x.dtype)


def rope_append_reference(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: tuple[int, int],
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    qk_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    """The definition."""
    num_q, num_kv = num_heads
    head_dim, page_size = k_cache.shape[3], k_cache.shape[2]
    q, k, v = qkv.view(qkv.shape[0], num_q + 2 * num_kv, head_dim).split((num_q, num_kv, num_kv), dim=1)
    if qk_norm is not None:
        q, k = (rms_norm_reference(x, gain, eps)[0] for x, gain in zip((q, k), qk_norm, strict=True))
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    page, offset = slots // page_size, slots % page_size
    k, v = rotate(k, cos, sin)[kept], v[kept]
    if k_scale is not None and v_scale is not None:
        k, v = to_float8(k.float() / k_scale[:, None]), to_float8(v.float() / v_scale[:, None])
    k_cache[page, :, offset] = k.to(k_cache.dtype)
    v_cache[page, :, offset] = v.to(v_cache.dtype)
    return rotate(q, cos, sin)


@jit
def _rope_append_kernel(
    qkv_ptr,
    cos_sin_ptr,
    positions_ptr,
    slots_ptr,
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    k_scale_ptr,
    v_scale_ptr,
    qk_norm_ptr,
    eps,
    NUM_Q: tl.constexpr,
    NUM_KV: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    QUANTISED: tl.constexpr,
    NORMED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program (token, block of heads) over the row's Hq + 2 Hk heads; both halves of a head sit in one program."""
    follow_previous_kernel(DEPENDENT)
    HALF: tl.constexpr = HEAD_DIM // 2
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    col = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < NUM_Q + 2 * NUM_KV) & (col < HALF)
    source = qkv_ptr + token * ((NUM_Q + 2 * NUM_KV) * HEAD_DIM) + head * HEAD_DIM + col
    x1 = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)

    angles = cos_sin_ptr + tl.load(positions_ptr + token) * HEAD_DIM + col
    rotated = head < NUM_Q + NUM_KV
    if NORMED:
        scale = 1.0 / tl.sqrt(tl.sum(x1 * x1 + x2 * x2, axis=1, keep_dims=True) / HEAD_DIM + eps)
        gain = qk_norm_ptr + tl.where(head < NUM_Q, 0, HEAD_DIM) + col
        g1 = tl.load(gain, mask=inside & rotated, other=0.0).to(tl.float32)
        g2 = tl.load(gain + HALF, mask=inside & rotated, other=0.0).to(tl.float32)
        # Rounded as the definition's norm is.
        x1 = tl.where(rotated, (x1 * scale * g1).to(qkv_ptr.dtype.element_ty).to(tl.float32), x1)
        x2 = tl.where(rotated, (x2 * scale * g2).to(qkv_ptr.dtype.element_ty).to(tl.float32), x2)
    cos = tl.where(rotated, tl.load(angles, mask=col < HALF, other=0.0), 1.0)
    sin = tl.where(rotated, tl.load(angles + HALF, mask=col < HALF, other=0.0), 0.0)
    # V passes through: x * 1 - y * 0 would turn an infinity into NaN, so it is selected, not computed.
    y1 = tl.where(rotated, x1 * cos - x2 * sin, x1)
    y2 = tl.where(rotated, x2 * cos + x1 * sin, x2)

    is_q = inside & (head < NUM_Q)
    q = q_ptr + token * (NUM_Q * HEAD_DIM) + head * HEAD_DIM + col
    tl.store(q, y1.to(q_ptr.dtype.element_ty), mask=is_q)
    tl.store(q + HALF, y2.to(q_ptr.dtype.element_ty), mask=is_q)

    slot = tl.load(slots_ptr + token) + tl.zeros_like(head)
    page, offset = slot // PAGE_SIZE, slot % PAGE_SIZE
    is_k = inside & (head >= NUM_Q) & (head < NUM_Q + NUM_KV) & (slot >= 0)
    if QUANTISED:
        y1 = y1.to(qkv_ptr.dtype.element_ty).to(tl.float32)  # as the definition: rounded before it is scaled
        y2 = y2.to(qkv_ptr.dtype.element_ty).to(tl.float32)
        is_kv = (head >= NUM_Q) & (head < NUM_Q + 2 * NUM_KV)
        scales = tl.where(head < NUM_Q + NUM_KV, k_scale_ptr + head - NUM_Q, v_scale_ptr + head - NUM_Q - NUM_KV)
        scale = tl.load(scales, mask=is_kv, other=1.0)
        # Saturating, whatever a conversion does beyond the largest code (448); NaN stays NaN.
        y1 = tl.clamp(y1 / scale, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        y2 = tl.clamp(y2 / scale, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    k = k_cache_ptr + ((page * NUM_KV + head - NUM_Q) * PAGE_SIZE + offset) * HEAD_DIM + col
    tl.store(k, y1.to(k_cache_ptr.dtype.element_ty), mask=is_k)
    tl.store(k + HALF, y2.to(k_cache_ptr.dtype.element_ty), mask=is_k)
    is_v = inside & (head >= NUM_Q + NUM_KV) & (slot >= 0)
    v = v_cache_ptr + ((page * NUM_KV + head - NUM_Q - NUM_KV) * PAGE_SIZE + offset) * HEAD_DIM + col
    tl.store(v, y1.to(v_cache_ptr.dtype.element_ty), mask=is_v)
    tl.store(v + HALF, y2.to(v_cache_ptr.dtype.element_ty), mask=is_v)


def rope_append_config(head_dim: int, follows: bool = False) -> dict[str, int | bool]:
    """Eight heads per program: 8 x 64 pairs in 4 warps."""
    block = {"BLOCK_HEADS": 8, "BLOCK_HALF": next_power_of_2(head_dim // 2)}
    return {**block, "DEPENDENT": follows, **launch(num_warps=4, dependent=follows)}


def rope_append_triton(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: tuple[int, int],
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    qk_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    """The launcher."""
    require_triton()
    num_q, num_kv = num_heads
    page_size, head_dim = k_cache.shape[2:]
    tokens = qkv.shape[0]
    q = torch.empty(tokens, num_q, head_dim, dtype=qkv.dtype, device=qkv.device)
    config = rope_append_config(head_dim, dependent(qkv))
    if tokens:
        _rope_append_kernel[(tokens, cdiv(num_q + 2 * num_kv, config["BLOCK_HEADS"]))](
            qkv.contiguous(),
            cos_sin,
            positions,
            slot_mapping,
            q,
            k_cache,
            v_cache,
            k_scale,
            v_scale,
            qk_norm,
            eps,
            NUM_Q=num_q,
            NUM_KV=num_kv,
            HEAD_DIM=head_dim,
            PAGE_SIZE=page_size,
            QUANTISED=k_scale is not None,
            NORMED=qk_norm is not None,
            **config,
        )
    return q


def rope_append(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: tuple[int, int],
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    qk_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    """Rotate Q and K, write K and V to their slots, return Q.

    qkv [N, (Hq + 2 Hk) D]; cos_sin [max_pos, D] float32 (cos | sin halves); positions [N] int64; slot_mapping [N] int64
    = page * page_size + offset, -1 to write nothing; caches [num_pages, Hk, page_size, D]; num_heads = (Hq, Hk);
    k_scale and v_scale [Hk] float32 where the cache is float8 (stored = value / scale); qk_norm [2, D] and eps: the
    norms of query and key heads, where there are any -> q [N, Hq, D] in qkv's dtype.
    """
    if k_scale is None and not use_triton(qkv) and native.supports_pages(qkv, k_cache):
        return native.rope_append(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache, num_heads, qk_norm, eps)
    run = rope_append_triton if use_triton(qkv) else rope_append_reference
    return run(qkv, cos_sin, positions, slot_mapping, k_cache, v_cache, num_heads, k_scale, v_scale, qk_norm, eps)


def rope_append_cost(
    tokens: int, num_heads: tuple[int, int], head_dim: int, itemsize: int = 2, kv_itemsize: int = 2
) -> tuple[int, int]:
    """(bytes, flops): the QKV row and the cos/sin row read; Q, K and V written."""
    num_q, num_kv = num_heads
    read = (num_q + 2 * num_kv) * head_dim * itemsize + head_dim * 4 + 16
    written = num_q * head_dim * itemsize + 2 * num_kv * head_dim * kv_itemsize
    return tokens * (read + written), 3 * tokens * (num_q + num_kv) * head_dim
