"""Dense products of a decode step: y = x W^T + b, the gated pair silu(x Wg^T) * (x Wu^T), and the vocabulary head.

Weights of 8 bits (`kernels.quantize`) multiply activations of the model's dtype: up to 64 tokens in one Triton kernel
that widens codes in registers, beyond that (prefill) by widening the matrix first. On the CPU int8 has a C++ twin;
float8 there is widened once, when it is packed: its rounding is that of the GPU, its speed and size those of no
quantisation.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from kernels import use_triton
from kernels.gemm_choices import Product, choose
from kernels.native import library as native
from kernels.quantize import decode
from kernels.silu_mul import silu_mul_reference, silu_mul_triton
from kernels.small_gemm import MOST_TOKENS, GemmConfig, small_gemm
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


def linear_reference(x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None = None) -> torch.Tensor:
    """The definition: x [N, K] -> [N, M], plus the residual [N, M]."""
    y = _product(x, w).to(x.dtype)
    return y if residual is None else y + residual


def _product(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """x W^T + bias: in x's dtype, or float32 where the weight holds codes."""
    if w.scale is None:
        return F.linear(x, w.weight, w.bias)
    return F.linear(x.float(), decode(w.weight, w.scale), None if w.bias is None else w.bias.float())


def _quantized(
    x: torch.Tensor, w: LinearWeight, product: Product, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Products with codes on CUDA; float32 for the head, else x's dtype."""
    assert w.scale is not None
    gated, head = product is Product.GATED, product is Product.HEAD
    if x.shape[0] <= MOST_TOKENS:
        config = choose(x, w.weight, product) or GemmConfig()
        return small_gemm(x, w.weight, config, w.bias, residual, gated=gated, maxima=head, scale=w.scale)[0]
    if x.is_cuda and x.dtype != torch.float32:  # codes are exact in 16 bits, and the sums leave cuBLAS unrounded
        y = torch.mm(x, w.weight.to(x.dtype).t(), out_dtype=torch.float32) * w.scale  # type: ignore[call-overload]
        y = y if w.bias is None else y + w.bias
    else:
        y = _product(x, w)
    if head:
        return y
    y = y.to(x.dtype)
    if gated:
        return silu_mul_triton(y)
    return y if residual is None else y + residual


def linear(x: torch.Tensor, w: LinearWeight, residual: torch.Tensor | None = None) -> torch.Tensor:
    """x [N, K], w.weight [M, K] -> x W^T + bias + residual, [N, M], in x's dtype."""
    if use_triton(x):
        if w.scale is not None:
            return _quantized(x, w, Product.PLAIN, residual)
        config = choose(x, w.weight, Product.PLAIN)
        if config is not None:
            return small_gemm(x, w.weight, config, bias=w.bias, residual=residual)[0]
        if residual is not None and w.bias is None:
            return torch.addmm(residual, x, w.weight.t())  # cuBLAS adds the residual (beta = 1) as it writes
        return linear_reference(x, w, residual)
    on_cpu = native.linear if native.supports_linear(x, w) else linear_reference
    return on_cpu(x, w, residual)


def linear_silu_mul_reference(x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
    """The definition: the product, then silu_mul."""
    return silu_mul_reference(_product(x, gate_up).to(x.dtype))


def linear_silu_mul(x: torch.Tensor, gate_up: LinearWeight) -> torch.Tensor:
    """x [N, H], gate_up.weight [2F, H] (gate rows, then up rows) -> silu(gate) * up, [N, F]."""
    if use_triton(x):
        if gate_up.scale is not None:
            return _quantized(x, gate_up, Product.GATED)
        config = choose(x, gate_up.weight, Product.GATED)
        if config is not None:
            return small_gemm(x, gate_up.weight, config, bias=gate_up.bias, gated=True)[0]
        return silu_mul_triton(F.linear(x, gate_up.weight, gate_up.bias))
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
        if w.scale is not None:
            return _quantized(x, w, Product.HEAD)
        config = choose(x, w.weight, Product.HEAD)
        if config is not None:
            return small_gemm(x, w.weight, config, bias=w.bias, maxima=True)[0]
        if x.is_cuda and x.dtype != torch.float32 and w.bias is None:
            return torch.mm(x, w.weight.t(), out_dtype=torch.float32)  # the sums leave cuBLAS unrounded
        return head_reference(x, w)
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
