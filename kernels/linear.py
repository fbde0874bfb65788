"""Dense products of a decode step: y = x W^T + b, the gated pair silu(x Wg^T) * (x Wu^T), and the vocabulary head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from kernels import REFERENCE, native, use_triton
from kernels.gemm_choices import Product, choose
from kernels.silu_mul import silu_mul_reference, silu_mul_triton
from kernels.small_gemm import small_gemm


@dataclass(frozen=True)
class LinearWeight:
    """weight [M, K], bias [M] or None. `packed` is a layout private to the C++ twin, made by `pack`."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    packed: Any = None


def pack(w: LinearWeight) -> LinearWeight:
    """`w` with the packed form of the C++ twin where it takes this weight, else `w` itself. Once, after loading."""
    # Under the interpreter products take the CUDA path, which reads the weight as it is.
    if not REFERENCE and not use_triton(w.weight) and native.LOADED and native.supports_pack(w.weight):
        return native.pack(w)
    return w


def linear_reference(x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None = None) -> torch.Tensor:
    """The definition: x [N, K] -> [N, M], plus the residual [N, M]."""
    y = F.linear(x, w.weight, w.bias)
    return y if residual is None else y + residual


def linear(x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None = None) -> torch.Tensor:
    """x [N, K], w.weight [M, K] -> x W^T + bias + residual, [N, M], in x's dtype."""
    if use_triton(x):
        config = choose(x, w.weight, Product.PLAIN)
        if config is not None:
            return small_gemm(x, w.weight, config, bias=w.bias, residual=residual)[0]
        if residual is not None and w.bias is None:
            return torch.addmm(residual, x, w.weight.t())  # cuBLAS adds the residual (beta = 1) as it writes
        return linear_reference(x, w, residual)
    if not REFERENCE and native.LOADED and native.supports_linear(x, w):
        return native.linear(x, w, residual)
    return linear_reference(x, w, residual)


def linear_silu_mul_reference(x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
    """The definition: the product, then silu_mul."""
    return silu_mul_reference(F.linear(x, gate_up.weight, gate_up.bias))


def linear_silu_mul(x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
    """x [N, H], gate_up.weight [2F, H] (gate rows, then up rows) -> silu(gate) * up, [N, F]."""
    if use_triton(x):
        config = choose(x, gate_up.weight, Product.GATED)
        if config is not None:
            return small_gemm(x, gate_up.weight, config, bias=gate_up.bias, gated=True)[0]
        return silu_mul_triton(F.linear(x, gate_up.weight, gate_up.bias))
    if not REFERENCE and native.LOADED and native.supports_linear(x, gate_up):
        return native.linear_silu_mul(x, gate_up)
    return linear_silu_mul_reference(x, gate_up)


def head_reference(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """The definition. The product is rounded to x's dtype where torch has no float32 output for it."""
    return F.linear(x, w.weight, w.bias).float()


def head(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """x [N, H], w.weight [V, H] (this rank's vocabulary rows) -> logits [N, V], float32."""
    if use_triton(x):
        config = choose(x, w.weight, Product.HEAD)
        if config is not None:
            return small_gemm(x, w.weight, config, bias=w.bias, maxima=True)[0]
        if x.is_cuda and x.dtype != torch.float32 and w.bias is None:
            return torch.mm(x, w.weight.t(), out_dtype=torch.float32)  # the sums leave cuBLAS unrounded
        return head_reference(x, w)
    if not REFERENCE and native.LOADED and native.supports_linear(x, w):
        return native.head(x, w)
    return head_reference(x, w)


def linear_cost(
    tokens: int, out_features: int, in_features: int, itemsize: int = 2, out_itemsize: int | None = None
) -> tuple[int, int]:
    """(bytes, flops): weight and x read once, y written."""
    out = itemsize if out_itemsize is None else out_itemsize
    moved = (out_features * in_features + tokens * in_features) * itemsize + tokens * out_features * out
    return moved, 2 * tokens * out_features * in_features
