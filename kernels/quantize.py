"""Eight bits per weight, eight bits per cached key and value.

Weights: one float32 scale per output row, scale = max |w| / largest code. int8: codes round(w / scale) in -127 .. 127,
so an error is at most scale / 2. float8 (e4m3fn): three bits of mantissa, so an error is at most 1/16 of the weight, or
scale / 1024 below the smallest normal number. Activations stay as they are: y = (x codes^T) * scale.

Keys and values: float8 with one scale per head that follows from the weights alone. What goes into a projection has
norm sqrt(H) under its gain g (RMSNorm), so |k_j| <= |b_j| + sqrt(H) |W_j * g| by Cauchy-Schwarz: nothing overflows, no
data is needed, and a floating-point format loses no precision where the bound is far from typical values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import huge_pages

FLOAT8 = torch.float8_e4m3fn
LARGEST = {torch.int8: 127.0, FLOAT8: 448.0}
"""Largest code of each type."""
_BLOCK = 1 << 24
"""Elements quantised at a time: bounds the scratch memory to some 64 MiB copies."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A weight [M, K]: codes * scale. `dtype` is that of the activations it is for."""

    codes: Tensor
    """[M, K] int8 or float8_e4m3fn"""
    scale: Tensor
    """[M] float32"""
    dtype: torch.dtype

    @classmethod
    def empty(
        cls, rows: int, cols: int, codes: torch.dtype, dtype: torch.dtype, device: torch.device
    ) -> "QuantizedMatrix":
        """Uninitialised."""
        return cls(
            huge_pages.empty((rows, cols), codes, device),
            torch.empty(rows, dtype=torch.float32, device=device),
            dtype,
        )

    @classmethod
    def of(cls, weight: Tensor, codes: torch.dtype) -> "QuantizedMatrix":
        """`weight` [M, K] in 8 bits, for activations of its dtype."""
        matrix = cls.empty(weight.shape[0], weight.shape[1], codes, weight.dtype, weight.device)
        matrix.fill(weight)
        return matrix

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def split(self, sizes: Sequence[int]) -> list["QuantizedMatrix"]:
        """Views of consecutive rows."""
        parts = zip(self.codes.split(list(sizes)), self.scale.split(list(sizes)), strict=True)
        return [QuantizedMatrix(codes, scale, self.dtype) for codes, scale in parts]

    def fill(self, rows: Tensor, first: int = 0, columns: slice | None = None) -> None:
        """Quantise `rows` [m, K] into rows first .. first + m - 1. With `columns` only those are kept; the scale is
        that of the whole row, so that a matrix has the same codes however it is split over ranks."""
        for block in rows.split(max(1, _BLOCK // max(1, rows.shape[1]))):
            block = block.to(self.codes.device, torch.float32)
            scale = row_scale(block, self.codes.dtype)
            kept, last = block if columns is None else block[:, columns], first + len(block)
            self.codes[first:last].copy_(encode(kept, scale, self.codes.dtype))
            self.scale[first:last].copy_(scale)
            first = last


def row_scale(weight: Tensor, codes: torch.dtype) -> Tensor:
    """weight [M, K] float32 -> scale [M] float32; a row of zeros gets the least positive one."""
    return weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST[codes]


def encode(weight: Tensor, scale: Tensor, codes: torch.dtype) -> Tensor:
    """weight [M, K] float32, scale [M] -> codes [M, K], rounded to nearest, ties to even, saturating."""
    scaled = (weight / scale[:, None]).clamp(-LARGEST[codes], LARGEST[codes])
    return (scaled.round() if codes is torch.int8 else scaled).to(codes)


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """codes [M, K], scale [M] -> weight [M, K] float32."""
    return codes.float() * scale[:, None]


def to_float8(x: Tensor) -> Tensor:
    """float32 -> float8_e4m3fn, saturating; NaN stays NaN. (A bare `.to` saturates in some versions of torch only.)"""
    return x.clamp(-LARGEST[FLOAT8], LARGEST[FLOAT8]).to(FLOAT8)


def kv_scales(
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    value_bias: Tensor | None,
    gain: Tensor,
    num_heads: int,
    key_gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(k_scale, v_scale), each [Hk] float32, for projections key and value [Hk D, H] float32 of what an RMSNorm with
    `gain` [H] gives. RoPE turns pairs of a key's entries (j, j + D / 2), so a pair's norm is what must fit. Keys that
    are normed themselves, with `key_gain` [D], are bounded by that alone."""
    reach = gain.shape[0] ** 0.5

    def bound(weight: Tensor, bias: Tensor | None) -> Tensor:
        most = (weight * gain.float()).norm(dim=1) * reach
        most = most if bias is None else most + bias.float().abs()
        return most.view(num_heads, -1)

    tiny = torch.finfo(torch.float32).tiny
    largest = LARGEST[FLOAT8]
    v = bound(value, value_bias)
    if key_gain is None:
        first, second = bound(key, key_bias).chunk(2, dim=1)
        k_most = torch.hypot(first, second).amax(1)
    else:  # a normed head has the norm sqrt(D), so a pair of it that at most
        first, second = key_gain.float().abs().chunk(2)
        k_most = (torch.maximum(first, second).max() * key_gain.shape[0] ** 0.5).expand(num_heads)
    k_scale = k_most.clamp_min(tiny) / largest
    return k_scale, v.amax(1).clamp_min(tiny) / largest
