"""The tensors of one step."""

from dataclasses import dataclass

from torch import Tensor


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


@dataclass(frozen=True)
class StepResult:
    """What a step drew, on the device until it is read. B rows, K = largest `logprobs` asked for, R scores."""

    records: Tensor
    """[B, len(kernels.thinking.Record)] int32"""
    logprobs: Tensor | None = None
    """[B] float32: the model's own log-probability of what was committed"""
    top_ids: Tensor | None = None
    """[B, K] int64"""
    top_logprobs: Tensor | None = None
    """[B, K] float32"""
    scores: Tensor | None = None
    """[R] float32"""
