"""How one optimiser step's samples are laid over ranks and micro-batches.

Every rank computes the whole layout from lengths that all ranks know, so nothing about it is ever communicated.
A sample is never split over micro-batches, cut, padded or dropped; inside a context-parallel group the stream of a
micro-batch is cut evenly, wherever the cut falls.
"""

from dataclasses import dataclass

import numpy as np
import torch

from train.attention import Documents
from train.data import Dataset


@dataclass(frozen=True)
class StepLayout:
    """`micro[g][m]`: indices into the step's samples of data-parallel group g, micro-batch m (may be empty)."""

    micro: tuple[tuple[tuple[int, ...], ...], ...]
    lengths: tuple[int, ...]

    @property
    def micro_batches(self) -> int:
        return len(self.micro[0])

    @property
    def loads(self) -> list[list[int]]:
        """Tokens of each group's micro-batches."""
        return [[sum(self.lengths[i] for i in batch) for batch in group] for group in self.micro]

    @property
    def largest(self) -> int:
        """Most tokens of a micro-batch."""
        return max(map(max, self.loads))

    @property
    def imbalance(self) -> float:
        """Time of the slowest group over the mean, counted in tokens: 1.0 is perfect."""
        return sum(map(max, zip(*self.loads, strict=True))) * len(self.micro) / sum(self.lengths)


def _spread(items: list[int], lengths: list[int], bins: int) -> list[list[int]]:
    """Longest first, each to the lightest bin (ties: the first); each bin keeps the order of `items`."""
    loads, contents = [0] * bins, [[] for _ in range(bins)]  # type: ignore[var-annotated]
    for item in sorted(items, key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        loads[lightest] += lengths[item]
        contents[lightest].append(item)
    return [sorted(content) for content in contents]


def lay_out(lengths: list[int], groups: int, micro_limit: int) -> StepLayout:
    """Spreads samples of `lengths` over data-parallel `groups`; micro-batches hold at most `micro_limit` tokens.

    All groups get the same number of micro-batches (their collectives must match). A sample longer than the limit
    makes a micro-batch of its own.
    """
    parts = _spread(list(range(len(lengths))), lengths, groups)
    count = max(-(-sum(lengths[i] for i in part) // micro_limit) for part in parts) or 1
    while True:
        micro = [_spread(part, lengths, count) for part in parts]
        if all(len(b) == 1 or sum(lengths[i] for i in b) <= micro_limit for part in micro for b in part):
            return StepLayout(tuple(tuple(tuple(b) for b in part) for part in micro), tuple(lengths))
        count += 1


@dataclass(frozen=True)
class Batch:
    """One rank's slice of one micro-batch.

    `ids` [tokens] int64; `rows` [targets] int64: positions that predict a trained token; `labels` [targets] int64;
    `weights` [targets] float32: each target's share of the step's loss.
    """

    ids: torch.Tensor
    documents: Documents
    rows: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def target_weights(targets: np.ndarray, reduction: str) -> np.ndarray:
    """Weight [samples] float64 of one target token of each of the step's samples; those of all targets sum to 1."""
    by_sample = 1.0 / (len(targets) * targets.astype(np.float64))
    return by_sample if reduction == "sample_mean" else np.full(len(targets), 1.0 / targets.sum())


def build_batch(
    data: Dataset, samples: np.ndarray, weights: np.ndarray, context: int = 1, rank: int = 0, multiple: int = 1
) -> Batch:
    """Packs `samples` (indices into `data`, `weights` [samples] per target) and cuts slice `rank` of `context`.

    The stream is padded behind its end, with tokens that no document sees and that carry no loss, until the slices are
    equal and divisible by `multiple` (compiled blocks then see few shapes).
    """
    spans = [(int(data.offsets[sample]), int(data.offsets[sample + 1])) for sample in samples]
    lengths = [end - begin for begin, end in spans]
    size = max(-(-sum(lengths) // (context * multiple)), 1) * multiple
    padding = np.zeros(context * size - sum(lengths), dtype=np.int32)
    here = slice(rank * size, (rank + 1) * size)
    shares = [
        np.append(data.trained[begin + 1 : end], False) * share
        for (begin, end), share in zip(spans, weights, strict=True)
    ]
    weight = np.concatenate([*shares, padding])[here]
    rows = np.flatnonzero(weight)
    ids = np.concatenate([*(data.tokens[begin:end] for begin, end in spans), padding])
    labels = np.concatenate([*(np.append(data.tokens[begin + 1 : end], 0) for begin, end in spans), padding])
    return Batch(
        ids=torch.from_numpy(ids[here].astype(np.int64)),
        documents=Documents.slice([*lengths, len(padding)], here.start, here.stop),
        rows=torch.from_numpy(rows),
        labels=torch.from_numpy(labels[here][rows].astype(np.int64)),
        weights=torch.from_numpy(weight[rows].astype(np.float32)),
    )
