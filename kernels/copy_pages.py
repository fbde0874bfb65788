"""Copies of whole KV pages, for a fork whose last page is shared and about to be written."""

import torch


def copy_pages(caches: list[torch.Tensor], src: torch.Tensor, dst: torch.Tensor) -> None:
    """caches: tensors [num_pages, Hk, page_size, D]; page dst[i] becomes a copy of page src[i]. src, dst [n] int64.

    Every source page is read before any page is written.
    """
    for cache in caches:
        if cache.element_size() == 1:
            cache = cache.view(torch.uint8)  # float8 pages are bytes here: not every version indexes the type
        cache.index_copy_(0, dst, cache.index_select(0, src))
