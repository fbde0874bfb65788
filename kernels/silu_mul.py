"""The gated activation of the MLP: silu(gate) * up."""

import torch
import torch.nn.functional as F

from kernels import use_triton
from kernels.language import cdiv, jit, launch, require_triton, tl
from kernels.native import library as native


def silu_mul_reference(x: torch.Tensor) -> torch.Tensor:
    """The definition, in float32 inside."""
    gate, up = x.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


@jit
def _silu_mul_kernel(x_ptr, y_ptr, FEATURES: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row, block of features)."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < FEATURES
    gate = tl.load(x_ptr + row * (2 * FEATURES) + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * (2 * FEATURES) + FEATURES + cols, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * FEATURES + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


def silu_mul_config() -> dict[str, int | bool]:
    """8 values per thread, 16-byte accesses in bf16."""
    return {"BLOCK": 1024, **launch(num_warps=4)}


def silu_mul_triton(x: torch.Tensor) -> torch.Tensor:
    """The launcher."""
    require_triton()
    tokens, features = x.shape[0], x.shape[1] // 2
    y = torch.empty(tokens, features, dtype=x.dtype, device=x.device)
    config = silu_mul_config()
    if tokens:
        _silu_mul_kernel[(tokens, cdiv(features, config["BLOCK"]))](x.contiguous(), y, FEATURES=features, **config)
    return y


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """x [N, 2F] (gate | up) -> silu(gate) * up, [N, F], in x's dtype."""
    if use_triton(x):
        return silu_mul_triton(x)
    return (native.silu_mul if native.supports_rows(x) else silu_mul_reference)(x)


def silu_mul_cost(tokens: int, features: int, itemsize: int = 2) -> tuple[int, int]:
    """(bytes, flops) for F = `features`: gate and up read, one row written; exp and divide counted as one each."""
    return 3 * tokens * features * itemsize, 5 * tokens * features
