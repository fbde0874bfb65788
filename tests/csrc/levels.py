"""The operators of the native library at each instruction set that this processor runs."""

import pytest
import torch

from kernels.native import library as native
from tests.levels import missing

FLOATS = (torch.float32, torch.bfloat16)


def operators(level: str) -> native.Operators:
    """The library at `level`; skips, with the reason, where it or the processor does not have it."""
    if why := missing(level):
        pytest.skip(why)
    assert native.LIBRARY is not None
    return native.Operators(native.LIBRARY, level)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within the rounding of the dtype, 1e-5 in float32, one step of 8 bits in bfloat16; NaN and infinity alike. For
    what has no sum, or one of at most 140 squares: 4e-6 in float32 whatever its order."""
    bound = 1e-5 if found.dtype == torch.float32 and wanted.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound, equal_nan=True)
