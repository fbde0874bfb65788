"""What a reward model has in place of a language head: from a hidden state to one number.

Names are those of the checkpoints: Qwen2.5-Math-PRM and -RM (arXiv 2501.07301, two layers with a ReLU between),
Skywork's o1-Open-PRM (`v_head`), and transformers' classifiers of sequences and of tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from engine.errors import is_whole, refuse, shown
from kernels.linear import linear
from kernels.weights import LinearWeight


class Value(Enum):
    """How the last layer's outputs become the score."""

    PROBABILITY = "probability"
    """of class 1, by softmax over two"""
    SIGMOID = "sigmoid"
    RAW = "raw"


@dataclass(frozen=True)
class ScoreHead:
    """Linear layers with a ReLU between them, on every rank alike. H is the hidden size."""

    names: tuple[str, ...]
    """of the layers: the checkpoint has NAME.weight and, with `bias`, NAME.bias"""
    labels: int
    """outputs of the last layer: [labels, H]; the others are [H, H]"""
    bias: bool
    value: Value

    def shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        found: dict[str, tuple[int, ...]] = {}
        for name in self.names:
            rows = self.labels if name == self.names[-1] else hidden
            found[f"{name}.weight"] = (rows, hidden)
            if self.bias:
                found[f"{name}.bias"] = (rows,)
        return found


def parse_head(kind: str, values: Mapping[str, Any], source: str) -> ScoreHead:
    """The head of the architecture `kind` (without the model's own name), whose config.json holds `values`. Raises
    InputError where it has labels that are no score."""
    names = values.get("id2label")
    given = values.get("num_labels") or (len(names) if isinstance(names, Mapping) else None)
    if kind == "ForPrmModel":
        return ScoreHead(("v_head.summary",), 1, True, Value.SIGMOID)
    outcome = kind == "ForRewardModel"
    labels = (1 if outcome else 2) if given is None or kind.endswith("RewardModel") else given
    refuse(
        (
            not is_whole(labels, 1, 2),
            f"{source}: the head has {shown(labels)} labels; a score is one label, or the second of two",
        ),
    )
    value = Value.RAW if labels == 1 else Value.PROBABILITY
    if kind.endswith("RewardModel"):
        return ScoreHead(("score.0", "score.2"), labels, True, value)
    return ScoreHead(("score",), labels, kind == "ForTokenClassification", value)


SCORERS = (
    "ForProcessRewardModel",
    "ForRewardModel",
    "ForPrmModel",
    "ForSequenceClassification",
    "ForTokenClassification",
)
"""What follows the model's name in `architectures`."""


def scores(head: ScoreHead, layers: Sequence[LinearWeight], hidden: Tensor) -> Tensor:
    """hidden [R, H] -> [R] float32. A row's score does not depend on the other rows: each sum is over one row."""
    x = hidden
    for layer in layers[:-1]:
        x = torch.relu(linear(x, layer))
    weight, bias = layers[-1].weight.float(), layers[-1].bias
    out = (x.float()[:, None] * weight).sum(-1)
    out = out if bias is None else out + bias.float()
    if head.value is Value.PROBABILITY:
        return torch.softmax(out, -1)[:, 1]
    return torch.sigmoid(out[:, 0]) if head.value is Value.SIGMOID else out[:, 0]


def label_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """logits [R, V] of the language head, labels [R, L] token ids, -1 where a row has fewer: [R] float32, the first
    label's probability among its row's."""
    wanted = logits.float().gather(1, labels.clamp(min=0)).masked_fill(labels < 0, float("-inf"))
    return torch.softmax(wanted, -1)[:, 0]
