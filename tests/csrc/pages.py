"""Pages as a level's operators keep them (csrc/cpu/paged.h), and as the definition does, [pages, Hk, page_size, D]."""

import torch

from kernels import native


def _blocked(ops: native.Operators, cache: torch.Tensor) -> bool:
    page_size, dim = cache.shape[2:]
    return ops.level == "avx512_bf16" and cache.dtype is torch.bfloat16 and dim % 32 == 0 and page_size % 16 == 0


def to_pages(ops: native.Operators, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of keys and values as the operators of this level take them."""
    if not _blocked(ops, k):
        return k.clone(), v.clone()
    pages, heads, size, dim = k.shape
    keys = k.view(pages, heads, size // 16, 16, dim // 2, 2).transpose(3, 4)
    values = v.view(pages, heads, size // 2, 2, dim).transpose(3, 4)
    return keys.reshape(k.shape), values.reshape(v.shape)


def from_pages(ops: native.Operators, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse."""
    if not _blocked(ops, k):
        return k, v
    pages, heads, size, dim = k.shape
    keys = k.view(pages, heads, size // 16, dim // 2, 16, 2).transpose(3, 4)
    values = v.view(pages, heads, size // 2, dim, 2).transpose(3, 4)
    return keys.reshape(k.shape), values.reshape(v.shape)
