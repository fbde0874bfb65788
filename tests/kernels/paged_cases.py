"""Random paged caches and tolerances for the attention tests."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from kernels import INTERPRET
from tests.rounding import sums

HALF_TYPES = [torch.float16] if INTERPRET or not torch.cuda.is_available() else [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALF_TYPES]
"""The interpreter's bfloat16 `tl.dot` is wrong, so bfloat16 runs on a GPU alone."""


def typed(shapes: Sequence[tuple[Any, ...]], halves: Collection[int]) -> list[Any]:
    """(dtype, *shape): float32 in every shape; 16 bits in the shapes at `halves`, and elsewhere with the slow tests."""
    return [
        pytest.param(dtype, *shape, marks=() if dtype == torch.float32 or at in halves else pytest.mark.slow)
        for dtype in DTYPES
        for at, shape in enumerate(shapes)
    ]


TOLERANCE = {torch.float32: sums(520 + 8), torch.float16: 4e-3, torch.bfloat16: 1e-2}
"""Largest error, relative to the largest value: no sum of these tests has more than 520 terms."""


@dataclass(frozen=True)
class Paged:
    """Caches in which every slot that no row owns holds NaN, with tables of shuffled pages."""

    k: torch.Tensor
    v: torch.Tensor
    tables: torch.Tensor
    lens: torch.Tensor

    @property
    def longest(self) -> int:
        return int(self.lens.max())


def paged_cache(
    lens: list[int], num_kv: int, head_dim: int, page_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Paged:
    """One row per length; page 0 is the dummy page and the rows' pages are in random order."""
    rows, pages = len(lens), max(1, -(-max(lens) // page_size))
    k = torch.full((rows * pages + 1, num_kv, page_size, head_dim), torch.nan)
    v = k.clone()
    tables = (torch.randperm(rows * pages) + 1).view(rows, pages)
    for row, keys in enumerate(lens):
        for index in range(-(-keys // page_size)):
            filled = min(page_size, keys - index * page_size)
            k[tables[row, index], :, :filled] = torch.randn(num_kv, filled, head_dim)
            v[tables[row, index], :, :filled] = torch.randn(num_kv, filled, head_dim)
        tables[row, -(-keys // page_size) :] = 0  # what the engine leaves in unused entries
    return Paged(
        k.to(device, dtype),
        v.to(device, dtype),
        tables.to(device, torch.int32),
        torch.tensor(lens, dtype=torch.int32, device=device),
    )


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest error relative to the largest value; infinite where `got` is not finite."""
    if not torch.isfinite(got).all():
        return float("inf")
    return float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-30))
