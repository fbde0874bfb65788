"""Attention over a packed stream in which every document sees only itself, causally.

`Documents` says who sees whom; two back ends read it: torch's `varlen_attn` (CUDA) and, everywhere, scaled dot product
attention over groups of documents of similar length. Padding a group at the end is exact under a causal mask: padded
keys are seen by padded queries only, and their outputs are not taken.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from kernels import torch_versions

# Documents whose length is at least this share of the longest join its group: at most 1/4 more attention work in it,
# against one call per document (10 times slower for 64 documents of 128 tokens, forward and backward, on one core).
GROUP_RATIO = 0.8

FLASH = find_spec("flash_attn") is not None


@dataclass(frozen=True)
class Documents:
    """The documents that one rank's slice of the stream touches.

    `query_lengths`, `key_lengths`: tokens of each document in the slice, and from its start to the slice's end; they
    differ for the first document only. `key_start`: where in the group's stream the first document begins.
    `cu_queries`, `cu_keys` [documents+1] int32; `positions` [tokens] int64, from 0 in each document.
    `padded` [groups' rows] int64 gathers the grouped, padded rows; `restore` [tokens] int64 gathers them back;
    `holes` int64: padded rows that hold no token; `groups`: (documents, length) of each group in `padded`.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_start: int
    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    positions: torch.Tensor
    padded: torch.Tensor
    restore: torch.Tensor
    holes: torch.Tensor
    groups: tuple[tuple[int, int], ...]

    @staticmethod
    def slice(lengths: list[int], begin: int, end: int) -> "Documents":
        """Documents of `lengths`, packed in this order; the slice is the stream's tokens begin .. end."""
        spans = [(stop - length, stop) for stop, length in zip(accumulate(lengths), lengths, strict=True)]
        spans = [(start, min(stop, end)) for start, stop in spans if stop > begin and start < end]
        queries = [stop - max(start, begin) for start, stop in spans]
        keys = [stop - start for start, stop in spans]
        firsts = [0, *accumulate(queries)]
        # A document cut by the slice's begin sees keys that are not its queries: it is attended alone.
        members: list[list[int]] = []
        for i in sorted((i for i, n in enumerate(queries) if n == keys[i]), key=lambda i: -queries[i]):
            if members and queries[i] >= GROUP_RATIO * queries[members[-1][0]]:
                members[-1].append(i)
            else:
                members.append([i])
        # One row a document, as wide as the longest of its group: its tokens' places in the slice, -1 behind its end.
        rows = [
            F.pad(torch.arange(firsts[i], firsts[i + 1]), (0, queries[group[0]] - queries[i]), value=-1)
            for group in members
            for i in group
        ]
        padded = torch.cat([torch.zeros(0, dtype=torch.int64), *rows])
        restore = torch.zeros(sum(queries), dtype=torch.int64)
        restore[padded[padded >= 0]] = torch.nonzero(padded >= 0)[:, 0]
        return Documents(
            query_lengths=tuple(queries),
            key_lengths=tuple(keys),
            key_start=spans[0][0],
            cu_queries=torch.tensor(firsts, dtype=torch.int32),
            cu_keys=torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
            positions=torch.cat([torch.arange(k - q, k) for q, k in zip(queries, keys, strict=True)]),
            padded=padded.clamp(min=0),
            restore=restore,
            holes=torch.nonzero(padded < 0)[:, 0],
            groups=tuple((len(group), queries[group[0]]) for group in members),
        )

    def to(self, device: torch.device) -> "Documents":
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


class _Regroup(torch.autograd.Function):
    """rows of x [n, ...] -> x[take] [m, ...], where `back` inverts `take`: the gradient is a gather too.

    (The gradient of index_select is a scatter-add, row by row on a CPU.) `zero`: rows of the gradient [n, ...] that no
    output came from.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, take: torch.Tensor, back: torch.Tensor, zero: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(back, zero)
        return x.index_select(0, take)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        back, zero = ctx.saved_tensors
        grad = grad.index_select(0, back)
        if zero is not None and len(zero):
            grad.index_fill_(0, zero, 0.0)
        return grad, None, None, None


class _GatherStream(torch.autograd.Function):
    """Slices [tokens, ...] of all ranks -> the whole stream [ranks * tokens, ...]; gradients are summed and cut."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        out = x.new_empty(dist.get_world_size(group) * x.shape[0], *x.shape[1:])
        torch_versions.all_gather(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        out = grad.new_empty(grad.shape[0] // dist.get_world_size(ctx.group), *grad.shape[1:])
        torch_versions.reduce_scatter(out, grad.contiguous(), group=ctx.group)
        return out, None


def attend(
    qkv: torch.Tensor, heads: tuple[int, int], documents: Documents, group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """qkv [tokens, Hq + 2 Hk, D] (rotated) -> [tokens, Hq, D]. `group`: ranks that share one stream."""
    queries, keys = heads
    if group is None and not qkv.is_cuda:
        return _grouped(qkv, heads, documents)
    q, kv = qkv.split([queries, 2 * keys], dim=1)
    if group is not None:
        # Keys of later ranks are never needed; all-gather is still one call, and even over ranks.
        kv = _GatherStream.apply(kv, group).narrow(0, documents.key_start, sum(documents.key_lengths))
    k, v = kv.split([keys, keys], dim=1)
    if qkv.is_cuda:
        return _varlen(q, k, v, documents)
    first = documents.query_lengths[0], documents.key_lengths[0]
    cut, ahead = first if first[0] != first[1] else (0, 0)  # of a document that began on an earlier rank
    parts = []
    if cut:
        seen = torch.arange(ahead, device=q.device)[None, :] <= documents.positions[:cut, None]
        parts.append(_sdpa(q[None, :cut], k[None, :ahead], v[None, :ahead], seen)[0])
    if len(documents.padded):
        rest = torch.cat([q[cut:], k[ahead:], v[ahead:]], dim=1)
        # Rows of `padded` and `restore` count from the slice's first token; here from behind the partial document.
        moved = replace(documents, padded=(documents.padded - cut).clamp(min=0), restore=documents.restore[cut:])
        parts.append(_grouped(rest, heads, moved))
    return torch.cat(parts)


def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents) -> torch.Tensor:
    """One kernel over all documents, the causal mask aligned bottom-right. Not yet measured on a GPU."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    longest = max(documents.query_lengths), max(documents.key_lengths)
    if FLASH:
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            q,
            k,
            v,
            documents.cu_queries,
            documents.cu_keys,
            *longest,
            causal=True,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
    return torch_versions.varlen_attention(q, k, v, documents.cu_queries, documents.cu_keys, longest)


def _grouped(qkv: torch.Tensor, heads: tuple[int, int], documents: Documents) -> torch.Tensor:
    sizes = [heads[0], heads[1], heads[1]]
    rows = _Regroup.apply(qkv, documents.padded, documents.restore, None)
    blocks = rows.split([count * length for count, length in documents.groups])
    outputs = [
        _sdpa(*block.unflatten(0, group).split(sizes, dim=2)).flatten(0, 1)
        for block, group in zip(blocks, documents.groups, strict=True)
    ]
    return _Regroup.apply(torch.cat(outputs), documents.restore, documents.padded, documents.holes)


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """[documents, tokens, heads, D] -> the same shape as q. `mask` [queries, keys] bool, or None: causal."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)
