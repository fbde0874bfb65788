"""Dense product for few tokens, with the operators around it folded in: y = epilogue(prologue(x) W^T).

A decode step streams every weight once for 1 to 64 tokens, so the rows of W are the tile's M side (64 rows: wgmma) and
the tokens its N side. Prologue: RMSNorm, whose row factor is taken out of the product and applied at the end, so the
row is read once. Weights of 8 bits are widened in registers and scaled at the end. Epilogues: bias, residual,
silu(gate) * up, float32 logits with the maximum of each tile. `split_k` programs share one block of a narrow output;
the last to arrive adds the parts in order.

Dependent launch (`GemmConfig.prefetch`, off unless a row of the table asks for it): the kernel starts while the one
before it still runs, asks for its first tiles of the weight in L2, and waits for that kernel before it reads or writes
anything; `kernels.language` says why this cannot race. It can gain where the kernel before lets it start early, as
`rms_norm`, `decode_attention` and dependent products do; behind cuBLAS, `silu_mul` or an all-reduce it starts as a
plain launch does.

Not yet measured on a GPU: cuBLAS runs wherever `kernels.gemm_choices` has no row for the shape, unless the weight has
8 bits.
"""

import functools
from dataclasses import dataclass

import torch

from kernels.errors import KernelError
from kernels.language import (
    cdiv,
    dot_precision,
    jit_varying,
    launch,
    let_next_kernel_start,
    next_power_of_2,
    prefetch,
    require_triton,
    tl,
    wait_for_previous_kernel,
)

MOST_TOKENS = 64
"""More would be a matrix product bound by arithmetic."""


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


@jit_varying("tokens")
def _small_gemm_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    norm_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    maxima_ptr,
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
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    MAXIMA: tl.constexpr,
    QUANTISED: tl.constexpr,
    PRECISION: tl.constexpr,
    PREFETCH: tl.constexpr,
):
    """Program (block of outputs, part of K). GATED: rows OUT .. 2 OUT - 1 of the weight are the up projection."""
    block, split = tl.program_id(0), tl.program_id(1)
    out = block * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    token = tl.arange(0, BLOCK_T)
    k = tl.arange(0, BLOCK_IN)
    weight = weight_ptr + out[:, None].to(tl.int64) * IN + k[None, :]
    x_rows = x_ptr + token[:, None] * IN + k[None, :]
    acc = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
    up = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
    squares = tl.zeros([BLOCK_T], tl.float32)
    steps: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    if PREFETCH > 0:
        SECTOR: tl.constexpr = 256 // weight_ptr.dtype.element_ty.primitive_bitwidth  # values in 32 bytes
        ahead = split * steps // SPLIT_K * BLOCK_IN + tl.arange(0, PREFETCH * BLOCK_IN // SECTOR) * SECTOR
        ahead = tl.minimum(ahead, IN - 1)[None, :] + tl.minimum(out, OUT - 1)[:, None].to(tl.int64) * IN
        prefetch(weight_ptr + ahead)
        if GATED:
            prefetch(weight_ptr + ahead + OUT * IN)
        wait_for_previous_kernel()
        let_next_kernel_start()
    for step in range(split * steps // SPLIT_K, (split + 1) * steps // SPLIT_K):
        at = step * BLOCK_IN
        rows = (out[:, None] < OUT) & (at + k[None, :] < IN)
        w = tl.load(weight + at, mask=rows, other=0.0)
        if QUANTISED:
            w = w.to(x_ptr.dtype.element_ty)
        x = tl.load(x_rows + at, mask=(token[:, None] < tokens) & (at + k[None, :] < IN), other=0.0)
        if NORM:
            x32 = x.to(tl.float32)
            squares += tl.sum(x32 * x32, 1)
            gain = tl.load(norm_ptr + at + k, mask=at + k < IN, other=0.0).to(tl.float32)
            x = (x32 * gain[None, :]).to(w.dtype)
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
        part = partial_ptr + split.to(tl.int64) * tokens * OUT
        tl.store(part + place, acc, mask=inside)
        tl.debug_barrier()  # every thread's part is written before one thread releases the ticket
        finishes = tl.atomic_add(tickets_ptr + block, 1, sem="acq_rel", scope="gpu") == SPLIT_K - 1
        if finishes:
            tl.store(tickets_ptr + block, 0)  # ready for the next launch
            acc = tl.zeros([BLOCK_OUT, BLOCK_T], tl.float32)
            for other in range(SPLIT_K):
                part = partial_ptr + other * (tokens * OUT).to(tl.int64)
                acc += tl.load(part + place, mask=inside, other=0.0, cache_modifier=".cg")
    if finishes:
        if NORM:
            factor = 1.0 / tl.sqrt(squares / IN + eps)
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
        tl.store(y_ptr + place, acc.to(y_ptr.dtype.element_ty), mask=inside)
        if MAXIMA:
            best = tl.max(tl.where(out[:, None] < OUT, acc, -float("inf")), 0)
            blocks: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
            tl.store(maxima_ptr + token * blocks + block, best, mask=token < tokens)


@functools.cache
def _tickets(device: torch.device, blocks: int) -> torch.Tensor:
    """Tickets of the split-K programs, made once: the kernel leaves them at zero. One stream at a time; kept for good,
    as captured graphs hold their addresses."""
    return torch.zeros(blocks, dtype=torch.int32, device=device)


def small_gemm_config(config: GemmConfig, tokens: int, dtype: torch.dtype) -> dict[str, int | str | bool]:
    """Constants of a launch: the tokens are padded to 16, the least N (wgmma) and K side Triton takes."""
    return {
        "BLOCK_T": max(16, next_power_of_2(tokens)),
        "BLOCK_OUT": config.block_out,
        "BLOCK_IN": config.block_in,
        "SPLIT_K": config.split_k,
        "PRECISION": dot_precision(dtype),
        "PREFETCH": config.prefetch,
        **launch(config.num_warps, config.num_stages, dependent=config.prefetch > 0),
    }


def small_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: GemmConfig,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    maxima: bool = False,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The launcher. x [N, K] with N <= MOST_TOKENS, weight [M, K] -> (y, maxima).

    `norm` [K]: x is RMS-normalised first. `gated`: weight [2F, K] -> silu(gate) * up [N, F]. `maxima`: y is float32 and
    the maximum of every block of `config.block_out` outputs comes with it, [N, blocks]; otherwise None. `scale` [M]
    float32: the weight holds codes of 8 bits.
    """
    require_triton()
    tokens, width = x.shape
    out = weight.shape[0] // 2 if gated else weight.shape[0]
    if not 0 < tokens <= MOST_TOKENS:
        raise KernelError(f"small_gemm takes 1 to {MOST_TOKENS} tokens, not {tokens}; use linear, which takes more")
    if config.split_k > 1 and (gated or norm is not None):
        raise KernelError("split_k cannot be combined with gated or norm: their sums are not in the partial results")
    y = torch.empty(tokens, out, dtype=torch.float32 if maxima else x.dtype, device=x.device)
    blocks = cdiv(out, config.block_out)
    tile_maxima = torch.empty(tokens, blocks, dtype=torch.float32, device=x.device) if maxima else None
    partial = tickets = None
    if config.split_k > 1:
        partial = torch.empty(config.split_k, tokens, out, dtype=torch.float32, device=x.device)
        tickets = _tickets(x.device, next_power_of_2(blocks))
    _small_gemm_kernel[(blocks, config.split_k)](
        x.contiguous(),
        weight,
        scale,
        norm,
        bias,
        residual,
        y,
        tile_maxima,
        partial,
        tickets,
        tokens,
        eps,
        OUT=out,
        IN=width,
        NORM=norm is not None,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        GATED=gated,
        MAXIMA=maxima,
        QUANTISED=scale is not None,
        **small_gemm_config(config, tokens, x.dtype),
    )
    return y, tile_maxima
