"""Dense product for few tokens, with the operators around it folded in: y = epilogue(x W^T).

A decode step streams every weight once for 1 to 64 tokens, so the rows of W are the tile's M side (64 rows: wgmma) and
the tokens its N side. Weights of 8 bits are widened in registers and scaled at the end. Epilogues: bias, residual,
silu(gate) * up, float32 logits. `split_k` programs share one block of a narrow output; the last to arrive adds the
parts in order.

An RMSNorm between two products has no launch of its own (`Scaled`): the first one's epilogue has whole outputs in its
registers, so it multiplies them by the norm's gain and leaves, for each block of outputs, the sum of their squares; the
second adds those sums in the order of the blocks and scales its own result by the row's factor. Whatever finishes
first, the bits are the same.

Dependent launch (`GemmConfig.prefetch`, off unless the choice asks for it): the kernel starts while the one before it
still runs, asks for its first tiles of the weight in L2, and waits for that kernel before it reads or writes anything;
`kernels.language` says why this cannot race. Behind cuBLAS, `silu_mul` or an all-reduce it starts as a plain launch.

Not yet measured on a GPU: `kernels.gemm_choices` says when it runs.
"""

import functools
from dataclasses import dataclass

import torch

from kernels.errors import KernelError
from kernels.language import (
    cdiv,
    dot_precision,
    follow_previous_kernel,
    jit,
    jit_varying,
    launch,
    next_power_of_2,
    prefetch,
    require_triton,
    tl,
)

MOST_TOKENS = 64
"""More would be a matrix product bound by arithmetic."""
_PROGRAMS = 2 * 132
_SHARED = 220 * 1024
"""Bytes of a multiprocessor's 228 KiB that the tiles in flight may take."""


@dataclass(frozen=True)
class GemmConfig:
    """Tile of the weight (`block_out` rows by `block_in` columns), programs per output block, and launch options."""

    block_out: int = 64
    block_in: int = 128
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 4
    prefetch: int = 0
    """Tiles (a power of two) that a program fetches into L2 before the previous kernel ends; 0: a plain launch.
    Needs sm_90 or later."""


@dataclass(frozen=True)
class Scaled:
    """The RMSNorm of h [N, H], but for the factor of each row: values / sqrt(sum(squares) / H + eps)."""

    values: torch.Tensor
    """[N, H]: h * gain, in h's dtype"""
    squares: torch.Tensor
    """[N, parts] float32: sums of h^2 over the parts of a row"""
    eps: float


def default_config(shape: tuple[int, ...], tokens: int, itemsize: int, gated: bool) -> GemmConfig:
    """For a weight [out, width] of `itemsize` bytes (`out` counts gate and up rows) that was not measured.

    Two programs on each multiprocessor of an H100 or H200, if K has four tiles for each, with as many in flight as the
    shared memory holds for both; not a few more, which would be a wave of their own. Beyond 32 tokens x would be as
    many bytes as the weight for 64 rows of it, and L2 the limit: 128 rows then.
    """
    (out, width), columns = shape, max(16, next_power_of_2(tokens))
    rows = 128 if gated or columns > 32 else 64
    room, tile = _SHARED // 2, rows * itemsize + columns * max(itemsize, 2)
    block_in = 128 if 3 * 128 * tile <= room and columns <= 32 else 64  # registers, too, are few
    split, blocks = cdiv(_PROGRAMS, cdiv(out, rows)), cdiv(out, rows)
    split = min(split - (0 < split * blocks - _PROGRAMS < 40), cdiv(width, block_in) // 4)
    block_out, warps = (64, 4) if gated else (rows, rows // 16)
    return GemmConfig(block_out, block_in, max(1, split), warps, min(5, room // (block_in * tile)))


@jit
def _squares(squares_ptr, tokens, BLOCK_T: tl.constexpr, PARTS: tl.constexpr, BLOCK_PARTS: tl.constexpr):
    """[BLOCK_T, BLOCK_PARTS]: the sums of squares that each row comes with."""
    token, part = tl.arange(0, BLOCK_T)[:, None], tl.arange(0, BLOCK_PARTS)[None, :]
    return tl.load(squares_ptr + token * PARTS + part, mask=(token < tokens) & (part < PARTS), other=0.0)


@jit_varying("tokens")
def _small_gemm_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    squares_ptr,
    bias_ptr,
    residual_ptr,
    gain_ptr,
    y_ptr,
    scaled_ptr,
    sums_ptr,
    partial_ptr,
    tickets_ptr,
    tokens,
    eps,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    SPLIT_K: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SCALES: tl.constexpr,
    GATED: tl.constexpr,
    QUANTISED: tl.constexpr,
    PRECISION: tl.constexpr,
    PREFETCH: tl.constexpr,
):
    """Program (block of outputs, part of K). GATED: rows OUT .. 2 OUT - 1 of the weight are the up projection.
    PARTS: sums of squares that x's rows come with; SCALES: y is left for a norm behind it."""
    block, split = tl.program_id(0), tl.program_id(1)
    out = block * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    token = tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_IN)
    weight = weight_ptr + out[:, None].to(tl.int64) * IN + k[None, :]
    x_rows = x_ptr + token[:, None] * IN + k[None, :]
    acc = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
    up = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
    steps: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    if PREFETCH > 0:
        SECTOR: tl.constexpr = 256 // weight_ptr.dtype.element_ty.primitive_bitwidth  # values in 32 bytes
        ahead = split * steps // SPLIT_K * BLOCK_IN + tl.arange(0, PREFETCH * BLOCK_IN // SECTOR) * SECTOR
        ahead = tl.minimum(ahead, IN - 1)[None, :] + tl.minimum(out, OUT - 1)[:, None].to(tl.int64) * IN
        prefetch(weight_ptr + ahead)
        if GATED:
            prefetch(weight_ptr + ahead + OUT * IN)
    follow_previous_kernel(PREFETCH > 0)
    if (PARTS > 0) & (SPLIT_K == 1):  # asked for here, added up when the product is done
        squares = _squares(squares_ptr, tokens, BLOCK_T, PARTS, BLOCK_PARTS)
    for step in range(split * steps // SPLIT_K, (split + 1) * steps // SPLIT_K):
        at = step * BLOCK_IN
        rows = (out[:, None] < OUT) & (at + k[None, :] < IN)
        w = tl.load(weight + at, mask=rows, other=0.0)
        if QUANTISED:
            w = w.to(x_ptr.dtype.element_ty)
        x = tl.load(x_rows + at, mask=(token[:, None] < tokens) & (at + k[None, :] < IN), other=0.0)
        acc = tl.dot(w, tl.trans(x), acc, input_precision=PRECISION)
        if GATED:
            w_up = tl.load(weight + at + OUT * IN, mask=rows, other=0.0)
            if QUANTISED:
                w_up = w_up.to(x_ptr.dtype.element_ty)
            up = tl.dot(w_up, tl.trans(x), up, input_precision=PRECISION)

    inside = (out[:, None] < OUT) & (token[None, :] < tokens)
    place = token[None, :].to(tl.int64) * OUT + out[:, None]
    finishes = True
    if SPLIT_K > 1:
        size = tokens.to(tl.int64) * OUT
        part = partial_ptr + split * (1 + GATED) * size + place
        tl.store(part, acc, mask=inside)
        if GATED:
            tl.store(part + size, up, mask=inside)
        tl.debug_barrier()  # every thread's part is written before one thread releases the ticket
        finishes = tl.atomic_add(tickets_ptr + block, 1, sem="acq_rel", scope="gpu") == SPLIT_K - 1
    if finishes:
        if SPLIT_K > 1:
            tl.store(tickets_ptr + block, 0)  # ready for the next launch
            acc = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
            up = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
            for other in tl.static_range(SPLIT_K):
                part = partial_ptr + other * (1 + GATED) * size + place
                acc += tl.load(part, mask=inside, other=0.0, cache_modifier=".cg")
                if GATED:
                    up += tl.load(part + size, mask=inside, other=0.0, cache_modifier=".cg")
        if PARTS > 0:
            if SPLIT_K > 1:
                squares = _squares(squares_ptr, tokens, BLOCK_T, PARTS, BLOCK_PARTS)
            factor = 1.0 / tl.sqrt(tl.sum(squares, 1) / IN + eps)
            acc = acc * factor[None, :]
            up = up * factor[None, :]
        if QUANTISED:
            acc = acc * tl.load(scale_ptr + out, mask=out < OUT, other=0.0)[:, None]
            if GATED:
                up = up * tl.load(scale_ptr + OUT + out, mask=out < OUT, other=0.0)[:, None]
        if BIAS:
            acc += tl.load(bias_ptr + out, mask=out < OUT, other=0.0).to(tl.float32)[:, None]
            if GATED:
                up += tl.load(bias_ptr + OUT + out, mask=out < OUT, other=0.0).to(tl.float32)[:, None]
        if GATED:
            acc = acc / (1.0 + tl.exp(-acc)) * up
        if RESIDUAL:
            acc += tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
        y = acc.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + place, y, mask=inside)
        if SCALES:  # of y as it is rounded, which is what the definition's norm reads
            y32 = tl.where(inside, y.to(tl.float32), 0.0)
            gain = tl.load(gain_ptr + out, mask=out < OUT, other=0.0).to(tl.float32)
            tl.store(scaled_ptr + place, (y32 * gain[:, None]).to(y.dtype), mask=inside)
            blocks: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
            tl.store(sums_ptr + token * blocks + block, tl.sum(y32 * y32, 0), mask=token < tokens)


@functools.cache
def _tickets(device: torch.device, blocks: int) -> torch.Tensor:
    """Tickets of the split-K programs, made once: the kernel leaves them at zero. One stream at a time; kept for good,
    as captured graphs hold their addresses."""
    return torch.zeros(blocks, dtype=torch.int32, device=device)


def small_gemm_config(
    config: GemmConfig, tokens: int, dtype: torch.dtype, parts: int = 0
) -> dict[str, int | str | bool]:
    """Constants of a launch: the tokens are padded to 16, the least N (wgmma) and K side Triton takes."""
    return {
        "BLOCK_T": max(16, next_power_of_2(tokens)),
        "BLOCK_OUT": config.block_out,
        "BLOCK_IN": config.block_in,
        "SPLIT_K": config.split_k,
        "PARTS": parts,
        "BLOCK_PARTS": next_power_of_2(max(1, parts)),
        "PRECISION": dot_precision(dtype),
        "PREFETCH": config.prefetch,
        **launch(config.num_warps, config.num_stages, dependent=config.prefetch > 0),
    }


def small_gemm(
    x: torch.Tensor | Scaled,
    weight: torch.Tensor,
    config: GemmConfig,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    gated: bool = False,
    wide: bool = False,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[torch.Tensor, Scaled | None]:
    """The launcher. x [N, K] with N <= MOST_TOKENS, weight [M, K] -> (y, what a norm behind it needs).

    `scale` [M] float32: the weight holds codes of 8 bits. `gated`: weight [2F, K] -> silu(gate) * up [N, F]. `wide`: y
    is float32. `gain` [M] and `eps`: those of the norm; without them the second result is None.
    """
    require_triton()
    values, squares, x_eps = (x.values, x.squares, x.eps) if isinstance(x, Scaled) else (x, None, 0.0)
    tokens, width = values.shape
    out = weight.shape[0] // 2 if gated else weight.shape[0]
    if not 0 < tokens <= MOST_TOKENS:
        raise KernelError(f"small_gemm takes 1 to {MOST_TOKENS} tokens, not {tokens}; use linear, which takes more")
    new = functools.partial(torch.empty, device=values.device)
    y, blocks = new(tokens, out, dtype=torch.float32 if wide else values.dtype), cdiv(out, config.block_out)
    scaled = None if gain is None else Scaled(torch.empty_like(y), new(tokens, blocks, dtype=torch.float32), eps)
    partial = tickets = None
    if config.split_k > 1:
        partial = new(config.split_k, 1 + gated, tokens, out, dtype=torch.float32)
        tickets = _tickets(values.device, next_power_of_2(blocks))
    _small_gemm_kernel[(blocks, config.split_k)](
        values.contiguous(),
        weight,
        scale,
        squares,
        bias,
        residual,
        gain,
        y,
        scaled and scaled.values,
        scaled and scaled.squares,
        partial,
        tickets,
        tokens,
        x_eps,
        OUT=out,
        IN=width,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        SCALES=gain is not None,
        GATED=gated,
        QUANTISED=scale is not None,
        **small_gemm_config(config, tokens, values.dtype, 0 if squares is None else squares.shape[1]),
    )
    return y, scaled
