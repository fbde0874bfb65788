"""What a condition that searches says of its search: by what it chooses, how far a step goes, and how it is run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from bench.evaluation.ballot import Ballot
from curate.models.local import engine_config
from engine.search.branch import Branch
from engine.search.reward import Aggregate
from engine.search.walk import Found, Steps, Walk


class RewardModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reward model with the policy's tokenizer, on an engine of its own."""

    model: str
    """Checkpoint directory or hub id."""
    mark: str | int | None = None
    """Text or token that is put behind each step, where the score is read; null: it is read at the step's last
    token."""
    labels: tuple[str | int, ...] = ()
    """See Engine.submit_score."""
    engine: dict[str, Any] = {}
    """Fields of EngineConfig; device and dtype are the policy's where they are left out."""

    def __post_init__(self) -> None:
        engine_config(self.model, self.engine)


NAMED = ("logprob", "random", "constant", "oracle", "inverted")
Reward = str | RewardModel
"""A model's, or one of `NAMED`: `logprob` the geometric mean of the chances of the drawn tokens; `random` a hash of the
path; `oracle` a leaf's grade and, before that, the share of right lines, 0 once one is wrong; `inverted` 1 less."""


@dataclass(frozen=True)
class Search:
    """How a condition searches.

    Attributes:
        size: branches or samples, which are in the engine at once.
        reward: what scores steps; None: nothing does.
        grow: the search itself, on a walk.
        choose: the answer that is taken of leaves with such scores, as the ballot reads it; None: nothing votes.
        measure: scores of the leaves, empty where there are none.
    """

    size: int
    steps: Steps
    reward: Reward | None
    how: Aggregate
    grow: Callable[[Walk, int, Ballot], Found]
    choose: Callable[[Sequence[Branch], Sequence[float], Ballot], str | None]
    measure: Callable[[Found], Sequence[float]]
