"""Rewards as a grid names them: checkers, certainty, chance, and reward models on engines of their own."""

import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import msgspec

from bench.evaluation.ballot import Ballot
from bench.evaluation.search_plan import Reward, RewardModel
from bench.evaluation.tasks import Problem
from curate.families.steps import Verdict, verdicts
from curate.grading.grade import AnswerKind
from curate.models.local import engine_config
from engine import Engine, InputError
from engine.config import EngineConfig
from engine.errors import shown
from engine.model.checkpoint import resolve
from engine.model.config import ModelConfig
from engine.search import reward as engine_rewards
from engine.search.branch import Branch

Prefix = Callable[[Branch, int], float]
"""The score of a branch's first so many tokens, which end with a step."""


@dataclass
class Named:
    """A reward without a model. It computes nothing."""

    prefix: Prefix
    parameters: int = 0
    computed: int = 0
    reused: int = 0

    def __call__(self, branches: Sequence[Branch]) -> list[list[float]]:
        """A score for each step."""
        return [[self.prefix(branch, end) for end in branch.ends] for branch in branches]


@dataclass
class Modelled:
    """A reward model, for one search. Counts what the search by itself computes of it, once for each part of the tree,
    whatever else the model has read: `computed` and `reused` together are the tokens of all that was scored."""

    model: engine_rewards.ModelReward
    parameters: int
    marks: int
    """Tokens behind a step: 0 or 1."""
    computed: int = 0
    reused: int = 0
    _read: set[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)

    def __call__(self, branches: Sequence[Branch]) -> list[tuple[float, ...]]:
        """A score for each step. Raises InputError for a path that is longer than the model's context."""
        scores = self.model(branches)
        for branch in branches:
            prompt, known = len(branch.prompt), 0 if not self._read else len(branch.prompt)
            self._read.add(((), ()))
            for steps, end in enumerate(branch.ends, 1):
                beginning = (branch.token_ids[:end], branch.ends[:steps])
                if beginning in self._read:
                    known = prompt + end + steps * self.marks
                self._read.add(beginning)
            self.computed += prompt + len(branch.token_ids) + len(branch.ends) * self.marks - known
            self.reused += known
        return scores


class Rewards(AbstractContextManager["Rewards"]):
    """The rewards of a run; its reward models are loaded once, and end with it."""

    def __init__(self, policy: Engine, specs: Iterable[Reward | None]) -> None:
        """Raises InputError naming the model that cannot be loaded, or whose tokens are not the policy's."""
        self._policy = policy
        self._by_spec: dict[tuple[bytes, str], Engine] = {}
        with ExitStack() as opened:
            for spec in specs:
                if not isinstance(spec, RewardModel):
                    continue
                config = model_config(spec, policy.config.device, policy.config.dtype)
                key = msgspec.json.encode(spec.engine), spec.model
                if key not in self._by_spec:
                    self._by_spec[key] = opened.enter_context(Engine(config=config))
                _try(self._by_spec[key], spec, policy)
            self._opened = opened.pop_all()

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def of(self, spec: Reward, problem: Problem, ballot: Ballot) -> Named | Modelled:
        """The reward for one search of a problem."""
        if isinstance(spec, RewardModel):
            engine = self._by_spec[msgspec.json.encode(spec.engine), spec.model]
            model = engine_rewards.ModelReward(engine, mark=spec.mark, labels=spec.labels)
            return Modelled(model, parameters(engine.config), int(spec.mark is not None))
        match spec:
            case "logprob":
                return Named(_certainty)
            case "random":
                return Named(_hashed)
            case "constant":
                return Named(lambda branch, end: 0.5)
            case "oracle":
                return Named(_Oracle(problem, ballot))
            case "inverted":
                oracle = _Oracle(problem, ballot)
                return Named(lambda branch, end: 1.0 - oracle(branch, end))
        raise InputError(f"reward is {shown(spec)}; give logprob, random, constant, oracle, inverted or a model")


def parameters(config: EngineConfig) -> int:
    """Parameters of a model, which every token costs two operations each."""
    return ModelConfig.load(resolve(config.model), config.dtype, config.device).num_parameters


def model_config(spec: RewardModel, device: str, dtype: str) -> EngineConfig:
    """The configuration of a reward model's engine, beside a policy on `device` in `dtype`."""
    return engine_config(spec.model, {"device": device, "dtype": dtype} | spec.engine)


def _try(engine: Engine, spec: RewardModel, policy: Engine) -> None:
    """Score a word, so that what is wrong with model, mark or labels shows before anything is generated."""
    text = "Wait, 7 times 8 is 56.\n"
    try:
        step = policy.tokenizer.encode(text)
        if engine.tokenizer.encode(text) != step or engine.tokenizer.size != policy.tokenizer.size:
            raise InputError("its tokenizer is not the policy's; take a reward model of the same family")
        engine.score(step, [step], spec.mark, spec.labels)
    except InputError as error:
        raise InputError(f"reward model {spec.model}: {error}") from error


def _certainty(branch: Branch, end: int) -> float:
    """The geometric mean of the chances of what was drawn: its logarithm is the mean log-probability."""
    drawn = [one.logprob for one in branch.logprobs[:end] if not one.forced]
    return math.exp(sum(drawn) / len(drawn)) if drawn else 1.0


def _hashed(branch: Branch, end: int) -> float:
    """A number in [0, 1) that follows from prompt and path alone."""
    digest = hashlib.sha256(array("i", (*branch.prompt, *branch.token_ids[:end])).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class _Oracle:
    """What an all-knowing reward says: a leaf's grade, and before that how its lines stand."""

    def __init__(self, problem: Problem, ballot: Ballot) -> None:
        self._problem, self._ballot = problem, ballot
        self._known: dict[str, float] = {}

    def __call__(self, branch: Branch, end: int) -> float:
        """1 or 0 for a leaf; otherwise the share of right lines, 0 once one is wrong, 0.5 where nothing is known."""
        if branch.finished and end == len(branch.token_ids):
            return float(self._ballot.right(branch.answer))
        if self._problem.kind is not AnswerKind.FAMILY:
            return 0.5
        whole, _, _ = branch.spelled(branch.token_ids[:end]).rpartition("\n")  # half a line may read as a wrong one
        if whole not in self._known:
            self._known[whole] = self._share([line for line in whole.split("\n") if line])
        return self._known[whole]

    def _share(self, lines: Sequence[str]) -> float:
        found = verdicts(self._problem.family, self._problem.question, lines)
        if Verdict.WRONG in found:
            return 0.0
        return found.count(Verdict.RIGHT) / len(found) if found else 0.5
