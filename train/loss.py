"""Head and cross entropy in chunks of rows: the whole logits [tokens, vocabulary] never exist."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def _chunk(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    # The matmul runs in the parameters' dtype, log-sum-exp and the sum in float32.
    return torch.dot(F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="none"), weights)


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, chunk: int
) -> torch.Tensor:
    """Sum of weights * cross entropy, float32. hidden [rows, H], weight [V, H], labels [rows] int64, weights [rows].

    Each chunk's logits are computed again in the backward pass, unless one chunk holds all rows. No rows: 0, with a
    gradient of zeros (other ranks' collectives still need this rank's backward pass).
    """
    if len(labels) == 0:
        return (hidden.sum() + weight[:1].sum()).float() * 0.0
    if len(labels) <= chunk:
        return _chunk(hidden, weight, labels, weights)
    chunks = zip(hidden.split(chunk), labels.split(chunk), weights.split(chunk), strict=True)
    parts = (checkpoint(_chunk, h, weight, some, shares, use_reentrant=False) for h, some, shares in chunks)
    return sum(parts, hidden.new_zeros((), dtype=torch.float32))
