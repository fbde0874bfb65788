"""Searches as a grid names them: each with its widths, and what it chooses by. `docs/evaluation.md` has the table."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

from msgspec import Meta

from bench.evaluation.ballot import Ballot
from bench.evaluation.methods import Condition, Defaults, MethodBase
from bench.evaluation.search_plan import NAMED, Reward, Search
from engine import InputError
from engine.errors import shown
from engine.search import confidence, votes
from engine.search.beam import beam, diverse
from engine.search.branch import Branch
from engine.search.rebase import rebase
from engine.search.reward import Aggregate
from engine.search.sampling import samples, shortest, until
from engine.search.shares import Rule
from engine.search.walk import Found, Steps, Walk

Count = Annotated[int, Meta(ge=1)]
Above0 = Annotated[float, Meta(gt=0)]
Choice = Literal["best", "weighted", "majority"]
"""Which answer of the leaves is taken: the one with the highest score, the most score in sum, or the most leaves."""


class SearchMethod(MethodBase, frozen=True, kw_only=True):
    """What all searches have: how paths are drawn, and where their steps end."""

    temperature: Above0 = 1.0
    """Of every draw."""
    budget: int | None = None
    """Thinking tokens along a path; null: s1's `auto`."""
    extensions: int = 0
    """How many ends of thinking are replaced by "Wait" along a path."""
    stop: tuple[str, ...] | str = "\n\n"
    """What ends a step."""
    step_tokens: Count | None = None
    """Most tokens of a step; null: as many as come before a mark."""
    most_steps: Count = 40
    """Steps of a path at most; it must answer then."""
    tree_tokens: Count | None = None
    """Of a whole search; open paths then answer. Null: as many as it takes."""
    name: str | None = None
    """Of the curve; null: the method with what it chooses by."""

    _sizes: ClassVar[str] = "samples"
    """Field that says how many branches there are, a condition for each."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Branches of each condition."""
        return cast(tuple[int, ...], getattr(self, self._sizes))

    @property
    def chooses_by(self) -> Reward | None:
        """What scores steps; None: nothing does."""
        return None

    @property
    def how(self) -> Aggregate:
        """How a path's score follows from its steps'."""
        return "last"

    @property
    def alternatives(self) -> int:
        """Log-probabilities of other tokens that it needs."""
        return 0

    @abstractmethod
    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        """The search itself."""

    @abstractmethod
    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        """The answer, as the ballot reads it, that is taken; None where nothing votes. `scores` are by `measure`."""

    def measure(self, found: Found) -> Sequence[float]:
        """Scores of the leaves; empty where there are none."""
        return found.scores

    def details(self) -> Iterator[str]:
        """What tells two curves of one method apart."""
        return iter(())

    def check(self) -> None:
        """Raises InputError for parameters that cannot be used together."""

    def steps(self) -> Steps:
        """Where steps end."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        stop = tuple(filter(None, stop))
        return Steps(stop=stop, max_tokens=self.step_tokens, most=self.most_steps, tree_tokens=self.tree_tokens)

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        """One per size. Raises InputError, naming the method, for what cannot be."""
        tag = str(self.__struct_config__.tag)
        try:
            if not self.sizes or min(self.sizes) < 1:
                raise InputError(f"{self._sizes} is {list(self.sizes)}; give numbers of at least 1")
            steps = self.steps()
            self.check()
            asked = defaults.within(
                self.budget,
                temperature=self.temperature,
                thinking_extensions=self.extensions,
                logprobs=self.alternatives,
            )
        except InputError as error:
            raise InputError(f"method {tag}: {error}") from error
        waits = () if not self.extensions else (f"{self.extensions}x Wait",)
        most = () if self.tree_tokens is None else (f"of {self.tree_tokens} tokens",)
        series = self.name or " ".join((tag, *self.details(), *waits, *most))
        for size in self.sizes:
            search = Search(size, steps, self.chooses_by, self.how, self.grow, self.choose, self.measure)
            yield Condition(f"{series} {size}", series, *asked, search=search)


class _Rewarded(SearchMethod, frozen=True, kw_only=True):
    """A method that chooses by a reward."""

    reward: Reward
    """What scores steps: a reward model, or `logprob`, the geometric mean of the chances of the drawn tokens; `random`,
    a hash of the path; `constant`; `oracle`, a leaf's grade and before that the share of right lines; `inverted`, 1
    less that."""
    aggregate: Aggregate = "last"
    """How a path's score follows from its steps'."""

    def check(self) -> None:
        if isinstance(self.reward, str) and self.reward not in NAMED:
            names = ", ".join(NAMED)
            raise InputError(f"reward is {shown(self.reward)}; give {names}, or {{model: FOLDER}} of a reward model")

    @property
    def chooses_by(self) -> Reward | None:
        return self.reward

    @property
    def how(self) -> Aggregate:
        return self.aggregate

    def details(self) -> Iterator[str]:
        yield self.reward if isinstance(self.reward, str) else Path(self.reward.model).name
        if self.aggregate != "last":
            yield f"of {self.aggregate}"


class _Walked(_Rewarded, frozen=True, kw_only=True):
    """One that chooses on its way too, and at its end by `choice`."""

    choice: Choice = "weighted"
    """Which answer of the leaves is taken: the one with the highest score (`best`), with the most score in sum
    (`weighted`), or of the most leaves (`majority`)."""

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        answers = ballot.answers(leaves)
        match self.choice:
            case "best":
                return votes.best(answers, scores)
            case "weighted":
                return votes.weighted(answers, _finite(scores), ballot.same)
            case "majority":
                return votes.majority(answers, ballot.same)

    def details(self) -> Iterator[str]:
        yield from super().details()
        if self.choice != "weighted":
            yield self.choice


class Rebase(_Walked, frozen=True, kw_only=True, tag="rebase"):
    """REBASE: every step's width is shared by reward. `balance` is the temperature of the shares."""

    _sizes = "widths"
    widths: tuple[int, ...]
    """Branches at once, a condition for each."""
    balance: Above0 = 0.1
    """Temperature of the shares: the lower, the more goes to the best branch."""
    rule: Rule = "code"
    """How shares become whole widths: `paper` rounds each, `code` is what its authors ran, `remainder` has the least
    error of those that add up."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return rebase(walk, size, self.balance, self.rule)

    def details(self) -> Iterator[str]:
        yield from super().details()
        if self.balance != 0.1:
            yield f"balance {self.balance:g}"
        if self.rule != "code":
            yield f"rule {self.rule}"


class _Kept(_Walked, frozen=True, kw_only=True):
    """One that goes on from one branch in `keep_one_of`."""

    _sizes = "counts"
    counts: tuple[int, ...]
    """Branches at once, a condition for each; multiples of `keep_one_of`."""
    keep_one_of: Count = 4
    """Of so many branches the best goes on."""

    def check(self) -> None:
        super().check()
        odd = next((count for count in self.counts if count % self.keep_one_of), None)
        if odd is not None:
            raise InputError(f"counts hold {odd} and keep_one_of is {self.keep_one_of}; give multiples of it")

    def details(self) -> Iterator[str]:
        yield from super().details()
        if self.keep_one_of != 4:
            yield f"1 of {self.keep_one_of}"


class Beam(_Kept, frozen=True, kw_only=True, tag="beam"):
    """Beam search: of `counts` beams the best go on."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return beam(walk, size, self.keep_one_of)


class Dvts(_Kept, frozen=True, kw_only=True, tag="dvts"):
    """DVTS: `counts` / `keep_one_of` trees, each goes on from the best of `keep_one_of`."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return diverse(walk, size, self.keep_one_of)


class BestOf(_Rewarded, frozen=True, kw_only=True, tag="best_of"):
    """Best of N: the answer of the sample with the highest score."""

    samples: tuple[int, ...]
    """Samples per problem, a condition for each."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return samples(walk, size)

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        return votes.best(ballot.answers(leaves), scores)


class Weighted(_Rewarded, frozen=True, kw_only=True, tag="weighted"):
    """Weighted majority: the answer with the most score in sum."""

    samples: tuple[int, ...]
    """Samples per problem, a condition for each."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return samples(walk, size)

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        return votes.weighted(ballot.answers(leaves), _finite(scores), ballot.same)


class _Sampled(SearchMethod, frozen=True, kw_only=True):
    """Whole samples, without a reward."""

    samples: tuple[int, ...]
    """Samples per problem at most, a condition for each."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return samples(walk, size)


class Adaptive(_Sampled, frozen=True, kw_only=True, tag="adaptive"):
    """A majority that stops: `samples` at most, `window` at a time, until it cannot change any more (`exact`), is
    unlikely to (`beta`, Adaptive-Consistency, `threshold`), or a whole window agrees (`unanimous`, ESC)."""

    until: Literal["beta", "exact", "unanimous"] = "beta"
    """No more are drawn once another majority is unlikely (`beta`), once there can be none (`exact`), or once a whole
    window agrees (`unanimous`)."""
    window: Count = 4
    """Samples that are drawn at a time."""
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.95
    """Of `beta`: how probable it must be that the majority stays."""

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        def enough(drawn: Sequence[Branch]) -> bool:
            answers, same = ballot.answers(drawn), ballot.same
            match self.until:
                case "beta":
                    return votes.adaptive_stop(votes.counts(answers, same), self.threshold)
                case "exact":
                    return votes.decided(answers, size - len(drawn), same)
                case "unanimous":
                    return votes.unanimous_window(answers, self.window, same)

        return until(walk, size, self.window, enough)

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        return votes.majority(ballot.answers(leaves), ballot.same)

    def details(self) -> Iterator[str]:
        yield self.until
        if self.threshold != 0.95 and self.until == "beta":
            yield f"{self.threshold:g}"
        if self.window != 4:
            yield f"window {self.window}"


class DeepConf(_Sampled, frozen=True, kw_only=True, tag="deepconf"):
    """DeepConf: a vote weighted by how sure each sample was of its tokens, by `group` of `window` tokens; `keep`: of
    the surest share of them only."""

    group: Literal["mean", "tail", "lowest", "bottom"] = "tail"
    """What counts as a sample's confidence: the mean of all its tokens, of the last window (`tail`), of the least sure
    window (`lowest`), or of the least sure tenth of the windows (`bottom`)."""
    window: Count = confidence.WINDOW
    """Tokens of a group."""
    keep: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Share of the answers that vote, the surest first; null: all."""
    top: Count = 20
    """Log-probabilities of a token's confidence."""

    @property
    def alternatives(self) -> int:
        return self.top

    def measure(self, found: Found) -> Sequence[float]:
        return [self._sure(leaf) for leaf in found.leaves]

    def _sure(self, leaf: Branch) -> float:
        trace = confidence.token_confidence([one for one in leaf.logprobs if not one.forced])
        match self.group:
            case "mean":
                return confidence.mean(trace)
            case "tail":
                return confidence.tail(trace, self.window)
            case "lowest":
                return confidence.lowest_group(trace, self.window)
            case "bottom":
                return confidence.bottom_groups(trace, self.window)

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        return confidence.confidence_vote(ballot.answers(leaves), scores, self.keep, ballot.same)

    def details(self) -> Iterator[str]:
        yield self.group
        if self.window != confidence.WINDOW:
            yield f"window {self.window}"
        if self.keep is not None:
            yield f"keep {self.keep:g}"


class ShortM(_Sampled, frozen=True, kw_only=True, tag="short_m"):
    """short-m@k: of `samples` thoughts at once, the majority of the `m` that end first."""

    m: Count = 3
    """Thoughts that vote: those that end first."""
    slice_tokens: Count = 64
    """Tokens that all thoughts go on by before it is seen which ended."""

    def check(self) -> None:
        if min(self.samples) < self.m:
            raise InputError(f"m is {self.m} of {min(self.samples)} samples; lower it")

    def grow(self, walk: Walk, size: int, ballot: Ballot) -> Found:
        return shortest(walk, size, self.m, self.slice_tokens)

    def choose(self, leaves: Sequence[Branch], scores: Sequence[float], ballot: Ballot) -> str | None:
        thought = [branch.thinking_tokens for branch in leaves]
        return votes.shortest_of(list(zip(ballot.answers(leaves), thought, strict=True)), self.m, ballot.same)

    def details(self) -> Iterator[str]:
        yield f"m {self.m}"


def _finite(scores: Sequence[float]) -> list[float]:
    """Weights that can be added up: what is no number weighs nothing, and infinities as the largest that there are."""
    known = [score for score in scores if math.isfinite(score)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return [score if math.isfinite(score) else high if score > 0 else min(0.0, low) for score in scores]


AnySearch = Rebase | Beam | Dvts | BestOf | Weighted | Adaptive | DeepConf | ShortM
