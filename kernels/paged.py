"""What the attention operators and the append share about the paged KV cache [num_pages, Hk, page_size, D]."""

import torch

from kernels import INTERPRET, huge_pages
from kernels.errors import KernelError
from kernels.language import dot_precision, jit, next_power_of_2, tl


def new_pages(
    layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Zeroed keys and values of each layer, each [num_pages, Hk, page_size, D].

    On a CPU those of a page lie side by side, and one layer's behind the other's: pages are read in any order, memory
    gives longer pieces faster, and what a page takes of 2 MiB pages of the system is whole. The Triton kernels take
    each cache contiguous.
    """
    if device.type == "cpu" and not INTERPRET:
        # A mapping of its own holds zeros, and takes no memory before a page is written.
        every = huge_pages.empty((shape[0], layers, 2, *shape[1:]), dtype, brief=True)
        return [(every[:, layer, 0], every[:, layer, 1]) for layer in range(layers)]
    return [
        (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
        for _ in range(layers)
    ]


def whole_pages(cache: torch.Tensor) -> bool:
    """Whether each page of a cache [num_pages, Hk, page_size, D] is contiguous; the pages may lie apart."""
    page_size, head_dim = cache.shape[2:]
    return cache.stride()[1:] == (page_size * head_dim, head_dim, 1)


def page_stride(k_cache: torch.Tensor, v_cache: torch.Tensor) -> int:
    """Elements from one page to the next, the same in both caches."""
    assert k_cache.stride() == v_cache.stride(), (k_cache.stride(), v_cache.stride())
    return k_cache.stride(0)


def gather_pages(cache: torch.Tensor, block_tables: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
    """cache [num_pages, Hk, page_size, D], block_tables [B, P] -> [Hk, B, P * page_size, D] float32, a copy.

    `scale` [Hk] float32 multiplies what a quantised cache holds.
    """
    rows, pages = block_tables.shape
    picked = cache.transpose(0, 1)[:, block_tables.reshape(-1).long()].float()
    if scale is not None:
        picked = picked * scale[:, None, None, None]
    return picked.reshape(cache.shape[1], rows, pages * cache.shape[2], cache.shape[3])


def tile_config(q: torch.Tensor, cache: torch.Tensor) -> dict[str, int | str | bool]:
    """The constants of both attention kernels: one KV tile never crosses a page, so its page is one scalar load.

    Float32 has no tensor cores: its products are unrolled, and the compiler pays for every key.
    """
    heads, (num_kv, page_size, head_dim) = q.shape[1], cache.shape[1:]
    if page_size < 16 or page_size != next_power_of_2(page_size):
        raise KernelError(f"page size is {page_size}; the attention kernels take powers of two from 16 (use 64)")
    if head_dim < 16 or head_dim != next_power_of_2(head_dim):
        raise KernelError(f"head_dim is {head_dim}; the attention kernels take powers of two from 16")
    return {
        "NUM_KV": num_kv,
        "GROUP": heads // num_kv,
        "HEAD_DIM": head_dim,
        "PAGE_SIZE": page_size,
        "BLOCK_N": min(page_size, 64 if q.element_size() == 2 else 32),
        "PRECISION": dot_precision(q.dtype),
    }


@jit
def softmax_step(acc, top, total_weight, logits, v, PRECISION: tl.constexpr):
    """Take another tile of keys into a softmax that runs: logits [M, N] to the base 2, v [N, D], acc [M, D]."""
    new_top = tl.maximum(top, tl.max(logits, 1))
    weights = tl.exp2(logits - new_top[:, None])
    decay = tl.exp2(top - new_top)
    total_weight = total_weight * decay + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
    return acc, new_top, total_weight


def attention_cost(
    query_tokens: int,
    key_tokens: int,
    pairs: int,
    num_heads: tuple[int, int],
    head_dim: int,
    itemsize: int = 2,
    kv_itemsize: int = 2,
) -> tuple[int, int]:
    """(bytes, flops) of one layer: q read and out written per query, K and V read once per key, 4 D flops per pair.

    `key_tokens` is the sum of the rows' lengths; `pairs` the sum of visible keys over all queries.
    """
    num_q, num_kv = num_heads
    moved = 2 * query_tokens * num_q * head_dim * itemsize + 2 * key_tokens * num_kv * head_dim * kv_itemsize
    return moved, 4 * pairs * num_q * head_dim
