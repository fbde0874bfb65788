"""RMSNorm with the residual add in front of it: h = x + residual; y = h / sqrt(mean(h^2) + eps) * weight."""

import torch

from kernels import use_triton
from kernels.gemm_choices import dependent
from kernels.language import follow_previous_kernel, jit, launch, next_power_of_2, require_triton, tl
from kernels.native import library as native


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition. The sum is rounded to x's dtype first (the next layer adds to it), the norm is float32."""
    h = x if residual is None else x + residual
    h32 = h.float()
    y = h32 * torch.rsqrt(h32.square().mean(-1, keepdim=True) + eps) * weight.float()
    return y.to(x.dtype), h


@jit
def _rms_norm_kernel(
    x_ptr,
    addresses_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    sum_ptr,
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One program per row; the row stays in registers between the sum of squares and the scaling. With RANKS x is a sum
    (`kernels.all_reduce_norm`): the loop is unrolled, so that all reads over NVLink are under way at once; they bypass
    L1, which does not see what other devices write."""
    follow_previous_kernel(DEPENDENT)
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    cols = tl.arange(0, BLOCK)
    inside = cols < HIDDEN
    if RANKS == 0:
        h = tl.load(x_ptr + row + cols, mask=inside, other=0.0).to(tl.float32)
    else:
        h = tl.zeros([BLOCK], tl.float32)
        for rank in tl.static_range(RANKS):
            part_ptr = tl.load(addresses_ptr + rank).to(tl.pointer_type(y_ptr.dtype.element_ty))
            part_ptr = tl.multiple_of(part_ptr, 16)
            h += tl.load(part_ptr + row + cols, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)
    if HAS_RESIDUAL:
        h += tl.load(residual_ptr + row + cols, mask=inside, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row + cols, h.to(y_ptr.dtype.element_ty), mask=inside)
        h = h.to(y_ptr.dtype.element_ty).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(h * h, axis=0) / HIDDEN + eps)
    y = h * scale * tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


def rms_norm_config(hidden: int, follows: bool = False) -> dict[str, int | bool]:
    """Block and warps for a row of `hidden`: 8 to 16 values per thread, 16-byte accesses in bf16."""
    block = next_power_of_2(hidden)
    return {"BLOCK": block, "DEPENDENT": follows, **launch(min(16, max(1, block // 512)), dependent=follows)}


def rms_norm_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    follows: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The launcher. `follows`: it is a dependent launch; None: where the kernels of a layer are."""
    require_triton()
    x = x.contiguous()
    residual = None if residual is None else residual.contiguous()
    y = torch.empty_like(x)
    h = x if residual is None else torch.empty_like(x)
    if x.shape[0]:
        _rms_norm_kernel[(x.shape[0],)](
            x,
            None,
            residual,
            weight,
            y,
            h,
            eps,
            HIDDEN=x.shape[1],
            RANKS=0,
            HAS_RESIDUAL=residual is not None,
            **rms_norm_config(x.shape[1], dependent(x) if follows is None else follows),
        )
    return y, h


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [N, H], weight [H], residual [N, H] or None -> (y [N, H], residual_out [N, H]); residual_out = x + residual."""
    if use_triton(x):
        return rms_norm_triton(x, weight, eps, residual)
    return (native.rms_norm if native.supports_rows(x) else rms_norm_reference)(x, weight, eps, residual)


def rms_norm_cost(tokens: int, hidden: int, itemsize: int = 2, residual: bool = True) -> tuple[int, int]:
    """(bytes, flops): x, residual and weight read; y and residual_out written."""
    rows = 4 if residual else 2
    return (rows * tokens + 1) * hidden * itemsize, 4 * tokens * hidden
