"""Vocabulary-parallel token embedding: each rank holds a range of rows and gives zeros for the others' ids."""

import torch
import torch.nn.functional as F

from kernels import use_triton
from kernels.language import cdiv, jit, launch, require_triton, tl
from kernels.native import library as native
from kernels.weights import LinearWeight


def embedding_reference(ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
    """The definition."""
    local = ids - vocab_start
    here = (local >= 0) & (local < weight.shape[0])
    return F.embedding(torch.where(here, local, 0), weight).masked_fill(~here[:, None], 0)


@jit
def _embedding_kernel(
    ids_ptr, weight_ptr, y_ptr, vocab_start, VOCAB: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (token, block of columns). Offsets are 64-bit: vocabulary x hidden passes 2^31 values."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < HIDDEN
    source = (tl.load(ids_ptr + token) - vocab_start) * HIDDEN + cols
    row = tl.load(weight_ptr + source, mask=inside & (source >= 0) & (source < VOCAB * HIDDEN), other=0.0)
    tl.store(y_ptr + token * HIDDEN + cols, row, mask=inside)


def embedding_config() -> dict[str, int | bool]:
    """8 values per thread, 16-byte accesses in bf16."""
    return {"BLOCK": 1024, **launch(num_warps=4)}


def embedding_triton(ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
    """The launcher."""
    require_triton()
    vocab, hidden = weight.shape
    y = torch.empty(ids.shape[0], hidden, dtype=weight.dtype, device=weight.device)
    config = embedding_config()
    if ids.shape[0]:
        _embedding_kernel[(ids.shape[0], cdiv(hidden, config["BLOCK"]))](
            ids, weight, y, vocab_start, VOCAB=vocab, HIDDEN=hidden, **config
        )
    return y


def embedding(ids: torch.Tensor, weight: torch.Tensor | LinearWeight, vocab_start: int = 0) -> torch.Tensor:
    """ids [N] int64, weight [V, H] = rows vocab_start .. vocab_start + V - 1 -> [N, H]; zeros for ids elsewhere.

    Where the head is the same matrix and has been packed, that: the matrix is held once, and a row is read from its
    panel, a cache line for every one or two columns, where each product of a step reads a whole matrix.
    """
    if isinstance(weight, LinearWeight):
        return native.embedding_of_panels(ids, weight, vocab_start)
    if use_triton(weight):
        return embedding_triton(ids, weight, vocab_start)
    return (native.embedding if native.supports_embedding(ids, weight) else embedding_reference)(
        ids, weight, vocab_start
    )


def embedding_cost(tokens: int, hidden: int, itemsize: int = 2) -> tuple[int, int]:
    """(bytes, flops): one row read and written per token."""
    return 2 * tokens * hidden * itemsize + 8 * tokens, 0
