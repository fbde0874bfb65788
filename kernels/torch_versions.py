"""What differs between the versions of torch that this project runs with (2.11 to 2.13), all of it."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

# PyTorch 2.13 renamed these two.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def varlen_options(varlen_attn: Callable[..., Any], grouped: bool) -> dict[str, Any]:
    """Keywords of a causal `varlen_attn`; `grouped`: several query heads share a head of keys and values. That was
    taken as it is (2.11) before there was a keyword for it (2.12)."""
    options: dict[str, Any] = {"window_size": (-1, 0)}
    if grouped and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True
    return options


def varlen_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, longest: tuple[int, int]
) -> torch.Tensor:
    """Causal attention of packed documents, aligned bottom right: q [tokens, Hq, D], k and v [keys, Hk, D], cu_q and
    cu_k [documents + 1] int32, `longest` (queries, keys) of one document -> [tokens, Hq, D]."""
    # Imported here: it brings the compiler along, 2 s of start-up that CPUs need not pay.
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(q, k, v, cu_q, cu_k, *longest, **varlen_options(varlen_attn, q.shape[1] != k.shape[1]))
    assert isinstance(out, torch.Tensor)
    return out
