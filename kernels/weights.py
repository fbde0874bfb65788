"""A weight of a dense product: as it was loaded, and as the C++ twin reads it."""

import ctypes
from dataclasses import dataclass

import torch

from kernels.quantize import QuantizedMatrix


@dataclass(frozen=True)
class PackedWeight:
    """A weight as panels of 32 rows; `dtype` is that of the activations it takes."""

    data: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor | None
    dtype: torch.dtype
    struct: ctypes.Structure
    """`S1Weight` of csrc/cpu/abi.h"""
    address: int


@dataclass(frozen=True)
class LinearWeight:
    """weight [M, K], bias [M] or None. `packed` is a layout private to the C++ twin, made by `pack`."""

    weight: torch.Tensor
    """in the activations' dtype, or codes of 8 bits"""
    bias: torch.Tensor | None = None
    packed: PackedWeight | None = None
    scale: torch.Tensor | None = None
    """[M] float32 where `weight` holds codes"""
    dtype: torch.dtype | None = None
    """of the activations, where `weight` holds codes"""

    @classmethod
    def of(cls, matrix: torch.Tensor | QuantizedMatrix, bias: torch.Tensor | None = None) -> "LinearWeight":
        """A weight as it was loaded."""
        if isinstance(matrix, QuantizedMatrix):
            return cls(matrix.codes, bias, scale=matrix.scale, dtype=matrix.dtype)
        return cls(matrix, bias)

    @property
    def panels(self) -> PackedWeight:
        """`packed`, where it is known to be there."""
        assert self.packed is not None
        return self.packed
