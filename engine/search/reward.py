"""Rewards: what a search thinks of the steps of a branch.

A reward is any function from branches to the scores of their steps, higher is better: a reward model's, a checker's, or
the policy's own certainty. What it must not do is lose a branch: `step_scores` says what a hostile one comes to.
"""

import math
from collections.abc import Callable, Sequence, Sized
from itertools import accumulate, pairwise
from typing import Literal, get_args

from engine.engine import Engine
from engine.errors import InputError, shown
from engine.request import Prompt
from engine.scoring import Scoring
from engine.search.branch import Branch

Reward = Callable[[Sequence[Branch]], Sequence[Sequence[float]]]
"""For each branch a score for each of its steps, in order."""

Aggregate = Literal["last", "min", "mean", "prod"]
"""How a path's score follows from its steps': by what its labels were made, arXiv 2501.07301, 3.2.4. `last` does not
depend on how many steps there are; `prod` is for scores that are probabilities."""


def step_scores(reward: Reward, branches: Sequence[Branch]) -> list[list[float]]:
    """The scores of every step of `branches`. NaN is the worst there is. Raises InputError naming the branch where the
    reward does not give as many as there are steps."""
    given = reward(branches)
    if len(given) != len(branches):
        raise InputError(f"the reward scored {len(given)} of {len(branches)} branches; it must score each, in order")
    for number, (scores, branch) in enumerate(zip(given, branches, strict=True)):
        count = len(scores) if isinstance(scores, Sized) else "no list of"
        if count != len(branch.ends):
            raise InputError(
                f"the reward gave branch {number} {count} scores and it has {len(branch.ends)} steps; give one for each"
            )
    return [[-math.inf if math.isnan(score) else float(score) for score in scores] for scores in given]


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """One score of a path's; -inf where there are none, and where one that counts is the worst there is or they come to
    no number. Raises InputError for a `how` that is none."""
    if how not in get_args(Aggregate):
        raise InputError(f"aggregate is {shown(how)}; give {', '.join(get_args(Aggregate))}")
    counted = scores[-1:] if how == "last" else scores
    if not counted or min(counted) == -math.inf:
        return -math.inf
    match how:
        case "mean":
            score = sum(counted) / len(counted)
        case "prod":
            score = math.prod(counted)
        case _:
            score = min(counted)
    return -math.inf if math.isnan(score) else score


def mean_logprob(branches: Sequence[Branch]) -> list[list[float]]:
    """A reward that needs no model: up to each step, the mean log-probability of what was drawn."""
    return [[_certainty(branch, end) for end in branch.ends] for branch in branches]


def _certainty(branch: Branch, end: int) -> float:
    drawn = [one.logprob for one in branch.logprobs[:end] if not one.forced]
    return sum(drawn) / len(drawn) if drawn else 0.0


class ModelReward:
    """A reward model on an engine of its own. What it computed for a branch it does not compute again for those that go
    on from it; both counts are in the branches' ledger."""

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt | None = None,
        mark: str | int | None = None,
        labels: Sequence[str | int] = (),
    ) -> None:
        """`prompt`: what the model reads before the steps, as its own chat template renders it; the steps are put
        behind it as text. None: it reads the branch's own token ids, so it must have the policy's tokenizer.
        `mark` and `labels`: see Engine.submit_score; Qwen2.5-Math-PRM wants the mark `<extra_0>`, 151651."""
        self._engine, self._prompt, self._mark, self._labels = engine, prompt, mark, tuple(labels)

    def __call__(self, branches: Sequence[Branch]) -> list[tuple[float, ...]]:
        """Score all at once. A step without text (the end of the path alone) has the score of the one before it. Raises
        InputError for a path that is longer than the model's context."""
        texts = [[self._step(branch, *span) for span in pairwise((0, *branch.ends))] for branch in branches]
        asked: list[Scoring | None] = []
        try:
            for branch, steps in zip(branches, texts, strict=True):
                prompt = branch.prompt if self._prompt is None else self._prompt
                written = [step for step in steps if step]
                asked.append(self._engine.submit_score(prompt, written, self._mark, self._labels) if written else None)
            scores = [None if scoring is None else scoring.result() for scoring in asked]
        except BaseException:
            for scoring in asked:
                if scoring is not None:
                    scoring.abort()
            raise
        found = []
        for branch, steps, each in zip(branches, texts, scores, strict=True):
            if each is not None:
                branch.ledger.add(scored=each.computed, reused=each.reused)
            values = iter(() if each is None else each.values)
            found.append(tuple(accumulate((next(values) if step else math.nan for step in steps), _or_before)))
        return found

    def _step(self, branch: Branch, start: int, end: int) -> Sequence[int] | str:
        ids = branch.token_ids[start:end]
        return ids if self._prompt is None else branch.spelled(ids)


def _or_before(before: float, score: float) -> float:
    return before if math.isnan(score) else score
