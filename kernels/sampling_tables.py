"""What the sampler reads: per-slot parameters, what a step needs, and the draws it gives."""

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

NEVER = float("-inf")


class Real(IntEnum):
    """Columns of `SamplingTables.real`."""

    TEMPERATURE = 0  # 0: greedy
    TOP_P = 1
    MIN_P = 2
    REPETITION = 3
    PRESENCE = 4
    FREQUENCY = 5


class Whole(IntEnum):
    """Columns of `SamplingTables.whole`."""

    TOP_K = 0  # 0: off
    SEED_LOW = 1
    SEED_HIGH = 2
    SAMPLE = 3


@dataclass(frozen=True)
class SamplingTables:
    """Per-slot sampling parameters, S slots, V vocabulary. Optional tables exist once a request needs them."""

    real: Tensor
    """[S, len(Real)] float32"""
    whole: Tensor
    """[S, len(Whole)] int32"""
    bias: Tensor | None = None
    """[S, V] float32, added to the logits: biases, and -inf for what may not be sampled"""
    counts: Tensor | None = None
    """[S, V] int32: how often each token was committed in the response"""
    in_prompt: Tensor | None = None
    """[S, V] bool"""


@dataclass(frozen=True)
class SamplingNeeds:
    """What the rows of this step need; decided by the host when requests come and go, constant inside a graph."""

    noise: bool = False
    """some row has a temperature above 0"""
    filters: bool = False
    """some row has top-k, top-p or min-p"""
    penalties: bool = False
    bias: bool = False
    masked: bool = False
    """some row may commit its masked draw"""
    logprobs: bool = False


@dataclass(frozen=True)
class Draws:
    """draw, masked [B] int64; bad [B] bool: NaN logits, or no token allowed."""

    draw: Tensor
    masked: Tensor
    bad: Tensor
