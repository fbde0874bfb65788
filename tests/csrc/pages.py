"""Pages as a level's operators keep them (csrc/cpu/paged.h), and as the definition does, [pages, Hk, page_size, D]."""

import torch

from kernels import REFERENCE, use_triton
from kernels.native import library as native


def _blocked(level: str, cache: torch.Tensor) -> bool:
    page_size, dim = cache.shape[2:]
    return level == "avx512_bf16" and cache.dtype is torch.bfloat16 and dim % 32 == 0 and page_size % 64 == 0


def to_pages(level: str, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of keys and values as the operators of this level take them."""
    if not _blocked(level, k):
        return k.clone(), v.clone()
    pages, heads, size, dim = k.shape
    keys = k.view(pages, heads, size // 64, 64, dim // 2, 2).transpose(3, 4)
    values = v.view(pages, heads, size // 2, 2, dim).transpose(3, 4)
    return keys.reshape(k.shape), values.reshape(v.shape)


def to_pages_here(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies as `kernels.attention` takes them in this process."""
    runs_native = native.LOADED and not REFERENCE and not use_triton(k)
    return to_pages(native.LEVEL if runs_native else "portable", k, v)


def from_pages(level: str, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse."""
    if not _blocked(level, k):
        return k, v
    pages, heads, size, dim = k.shape
    keys = k.view(pages, heads, size // 64, dim // 2, 64, 2).transpose(3, 4)
    values = v.view(pages, heads, size // 2, dim, 2).transpose(3, 4)
    return keys.reshape(k.shape), values.reshape(v.shape)
