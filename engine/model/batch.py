"""The tensors of one step."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

READ_AT_ONCE = 64
"""Rows of logits, as many as a step draws of: of prompts a step may ask for thousands."""


@dataclass(frozen=True)
class AttentionMeta:
    """What attention needs beyond ids and positions. Rows: decodes (one token each) first, then prefill chunks."""

    slot_mapping: Tensor
    """[N] int64: page * page_size + offset that each token's key and value go to; -1: nowhere"""
    block_tables: Tensor
    """[R, P] int32: pages of each row, decodes first"""
    context_lens: Tensor
    """[R] int32: keys that the row's last query sees, this step's included"""
    num_decodes: int
    cu_q: Tensor
    """[prefill rows + 1] int32: where each chunk's queries start among the prefill tokens"""
    max_q: int
    """Longest chunk"""
    max_context: int
    """An upper bound of context_lens"""


@dataclass(frozen=True)
class Batch:
    """One step's input. N tokens go in, the rows of `sampled` draw."""

    ids: Tensor
    """[N] int64"""
    positions: Tensor
    """[N] int64"""
    meta: AttentionMeta
    sampled: Tensor
    """[B] int64: which of the N hidden rows give logits"""
    slots: Tensor
    """[B] int64: the slot each of them belongs to"""
    scored: tuple[Tensor, Tensor] | None = None
    """[R] int64: which of the N hidden rows are scored; [R, L] int64: token ids that a language model chooses from
    there, padded with -1"""
    followed: tuple[Tensor, Tensor, int] | None = None
    """[R] int64: behind which of the N hidden rows a token's log-probability is asked for; [R] int64: that token; most
    alternatives that are asked for with one"""


class TokenLogprobs(NamedTuple):
    """The model's own log-probabilities of B tokens, and of the K likeliest in the place of each."""

    chosen: Tensor
    """[B] float32: equal to the likeliest's, bit for bit, where it is that one"""
    top_ids: Tensor
    """[B, K] int64"""
    top: Tensor
    """[B, K] float32, descending"""

    @classmethod
    def of(cls, own: Tensor, tokens: Tensor, most: int) -> "TokenLogprobs":
        """own [B, V] float32 log-probabilities, tokens [B] (of -1, the value says nothing); K is min(most, V)."""
        best = own.topk(min(most, own.shape[1]), 1)
        return cls(own.gather(1, tokens.clamp(min=0).long()[:, None])[:, 0], best.indices, best.values)


@dataclass(frozen=True)
class StepResult:
    """What a step drew and read, on the device until the host has it. B rows draw, R are scored, F followed."""

    records: Tensor
    """[B, len(kernels.thinking.Record)] int32"""
    drawn: TokenLogprobs | None = None
    """of the B tokens that were committed, K = largest `logprobs` asked for"""
    scores: Tensor | None = None
    """[R] float32"""
    followed: TokenLogprobs | None = None
    """of F tokens of prompts, K = most alternatives asked for with one"""

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        scores = () if self.scores is None else (self.scores,)
        return [self.records, *(self.drawn or ()), *scores, *(self.followed or ())]
