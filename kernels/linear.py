"""Dense products of a decode step: y = x W^T + b, the gated pair silu(x Wg^T) * (x Wu^T), and the vocabulary head.

On CUDA up to 64 tokens go through `small_gemm` where `kernels.gemm_choices` says so, everything else through cuBLAS.
Weights of 8 bits (`kernels.quantize`) multiply activations of the model's dtype: up to 64 tokens `small_gemm` widens
codes in registers, beyond that (prefill) the matrix is widened first. On the CPU int8 has a C++ twin; float8 there is
widened once, when it is packed: its rounding is that of the GPU, its speed and size those of no quantisation.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from kernels import use_triton
from kernels.gemm_choices import Product, choose, chosen
from kernels.native import library as native
from kernels.quantize import decode
from kernels.rms_norm import rms_norm
from kernels.silu_mul import silu_mul_reference, silu_mul_triton
from kernels.small_gemm import Scaled, small_gemm
from kernels.weights import LinearWeight


def pack(w: LinearWeight, in_place: bool = False) -> LinearWeight:
    """`w` with the packed form of the C++ twin where it takes this weight, else `w` itself. Once, after loading.
    `in_place`: in the weight's own memory where it fits; the weight is not to be read then."""
    # Under the interpreter products take the CUDA path, which reads the weight as it is.
    if use_triton(w.weight) or not native.USED:
        return w
    if w.scale is None or w.dtype is None:
        return native.pack(w, in_place) if native.supports_pack(w.weight) else w
    if w.weight.dtype is torch.int8:
        return native.pack(w, in_place) if w.dtype in native.FLOATS else w
    dense = LinearWeight(decode(w.weight, w.scale).to(w.dtype), w.bias)
    return replace(w, packed=native.pack(dense).packed) if native.supports_pack(dense.weight) else w


def linear_reference(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """The definition: x [N, K] -> [N, M]."""
    return _product(x, w).to(x.dtype)


def _product(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """x W^T + bias: in x's dtype, or float32 where the weight holds codes."""
    if w.scale is None:
        return F.linear(x, w.weight, w.bias)
    return F.linear(x.float(), decode(w.weight, w.scale), None if w.bias is None else w.bias.float())


def _ours(x: torch.Tensor | Scaled, w: LinearWeight, product: Product) -> torch.Tensor | None:
    """By `small_gemm` where it is chosen, else None: float32 for the head, else x's dtype."""
    config = choose(x.values if isinstance(x, Scaled) else x, w.weight, product)
    if config is None:
        return None
    return small_gemm(x, w.weight, config, w.bias, None, w.scale, product is Product.GATED, product is Product.HEAD)[0]


def _cublas(x: torch.Tensor, w: LinearWeight, wide: bool = False) -> torch.Tensor:
    """x W^T + bias on CUDA: float32 where it is `wide`, else x's dtype."""
    half = x.is_cuda and x.dtype != torch.float32
    if w.scale is not None and half:  # codes are exact in 16 bits, and the sums leave cuBLAS unrounded
        y = torch.mm(x, w.weight.to(x.dtype).t(), out_dtype=torch.float32) * w.scale  # type: ignore[call-overload]
        y = y if w.bias is None else y + w.bias
    elif wide and half and w.bias is None:
        return torch.mm(x, w.weight.t(), out_dtype=torch.float32)  # type: ignore[call-overload,no-any-return]
    else:
        y = _product(x, w)
    return y.float() if wide else y.to(x.dtype)


def linear(x: torch.Tensor | Scaled, w: LinearWeight) -> torch.Tensor:
    """x [N, K], w.weight [M, K] -> x W^T + bias, [N, M], in x's dtype.

    A `Scaled` x comes from `linear_norm`, which was told of this product.
    """
    if isinstance(x, Scaled) or use_triton(x):
        ours = _ours(x, w, Product.PLAIN)
        if ours is not None:
            return ours
        assert not isinstance(x, Scaled), "scaled for a product of ours"
        return _cublas(x, w)
    return native.linear(x, w) if native.supports_linear(x, w) else linear_reference(x, w)


def linear_norm(
    x: torch.Tensor,
    w: LinearWeight,
    residual: torch.Tensor,
    gain: torch.Tensor,
    eps: float,
    then: tuple[LinearWeight, Product] | None = None,
) -> tuple[torch.Tensor | Scaled, torch.Tensor]:
    """h = x W^T + residual, [N, M], then its RMSNorm: (y, h), as `linear` and `rms_norm` give them.

    Where the table has `small_gemm` run both this and the product `then` of y, the norm is part of the two. Not in
    float16, which has no room for values that are multiplied by the gain before they are normed.
    """
    if then is not None and use_triton(x) and x.dtype != torch.float16 and chosen(x, then[0].weight, then[1]):
        config = chosen(x, w.weight, Product.PLAIN)
        if config is not None:
            h, scaled = small_gemm(x, w.weight, config, w.bias, residual, w.scale, gain=gain, eps=eps)
            assert scaled is not None
            return scaled, h
    return rms_norm(linear(x, w), gain, eps, residual)


def linear_silu_mul_reference(x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
    """The definition: the product, then silu_mul."""
    return silu_mul_reference(_product(x, gate_up).to(x.dtype))


def linear_silu_mul(x: torch.Tensor | Scaled, gate_up: LinearWeight) -> torch.Tensor:
    """x [N, H], gate_up.weight [2F, H] (gate rows, then up rows) -> silu(gate) * up, [N, F]."""
    if isinstance(x, Scaled) or use_triton(x):
        ours = _ours(x, gate_up, Product.GATED)
        if ours is not None:
            return ours
        assert not isinstance(x, Scaled), "scaled for a product of ours"
        return silu_mul_triton(_cublas(x, gate_up))
    on_cpu = native.linear_silu_mul if native.supports_linear(x, gate_up) else linear_silu_mul_reference
    return on_cpu(x, gate_up)


def head_reference(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """The definition. The product is rounded to x's dtype where torch has no float32 output for it."""
    return _product(x, w).float()


def head(x: torch.Tensor, w: LinearWeight, room: torch.Tensor | None = None) -> torch.Tensor:
    """x [N, H], w.weight [V, H] (this rank's vocabulary rows) -> logits [N, V], float32.

    `room` [at least N, V] float32: where the C++ twin may write them. New memory for 64 rows of 152,064 logits costs
    more page faults than the product takes.
    """
    if use_triton(x):
        ours = _ours(x, w, Product.HEAD)
        return _cublas(x, w, wide=True) if ours is None else ours
    if native.supports_linear(x, w):
        return native.head(x, w, None if room is None else room[: x.shape[0]])
    return head_reference(x, w)


def linear_cost(
    tokens: int,
    out_features: int,
    in_features: int,
    itemsize: int = 2,
    out_itemsize: int | None = None,
    weight_itemsize: int | None = None,
) -> tuple[int, int]:
    """(bytes, flops): weight and x read once, y written; 1 for `weight_itemsize` adds a scale per row."""
    out = itemsize if out_itemsize is None else out_itemsize
    stored = itemsize if weight_itemsize is None else weight_itemsize
    weight = out_features * (in_features * stored + (4 if stored == 1 else 0))
    return weight + tokens * (in_features * itemsize + out_features * out), 2 * tokens * out_features * in_features
