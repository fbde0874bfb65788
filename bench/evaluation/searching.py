"""Searches of a run: several problems at once, each a tree on the engine, and a row of the log when it is whole."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, cast

from bench.evaluation.ballot import Ballot, Booth
from bench.evaluation.engine_backend import EngineBackend
from bench.evaluation.jobs import Place, Setting, request_of, row_of
from bench.evaluation.log import Key
from bench.evaluation.methods import Condition
from bench.evaluation.samples import Request, Sample
from bench.evaluation.search_rewards import Modelled, Named, Rewards, parameters
from bench.evaluation.tasks import Task
from engine import Engine, EngineDead, InputError
from engine.search.branch import Branch, Ledger, Step
from engine.search.walk import Found, Node, Walk

RETRIES = 2
"""Times that a search is made again whose step failed; then its row says so and counts as wrong."""


class StepFailed(EngineDead):
    """A step of one branch failed, and the engine goes on."""


class Path(Branch):
    """A branch that remembers how it ended."""

    finish_reason = ""
    stop_reason: str | None = None

    def end(self) -> Step:
        """As `Branch.end`. Raises StepFailed where the step alone failed."""
        if self._pending is not None:
            output = self._pending.result().outputs[0]
            if output.error is not None:
                raise StepFailed(output.error)
            self.finish_reason, self.stop_reason = output.finish_reason, output.thinking.stop_reason
        return super().end()

    @property
    def extensions(self) -> int:
        """Ends of thinking that were replaced along the path."""
        return len(self._extended)


@dataclass(frozen=True)
class Room:
    """What the searches of a run share."""

    setting: Setting
    engine: Engine
    rewards: Rewards
    booth: Booth


def run_all(room: Room, tasks: Sequence[Task], conditions: Sequence[Condition]) -> Iterator[int]:
    """Search for what is not in the log yet; yields 1 behind each row. As many problems are under way as the engine
    has slots for their branches, at least one. Raises EngineDead where the engine ended, and InputError where a
    search cannot begin."""
    assert isinstance(room.setting.backend, EngineBackend)
    for condition in conditions:
        assert condition.search is not None
        places = [Place(task, problem, 0) for task in tasks for problem in task.problems]
        left = [place for place in places if place.key(condition.label) not in room.setting.log]
        pool = ThreadPoolExecutor(max(1, room.setting.backend.slots // condition.search.size))
        try:
            for done in as_completed([pool.submit(run_one, room, place, condition) for place in left]):
                room.setting.log.write([done.result()])
                yield 1
        finally:  # an interrupt waits for none: the engine's end ends them
            pool.shutdown(wait=False, cancel_futures=True)


def root(room: Room, place: Place, condition: Condition) -> tuple[Path, Request]:
    """Where a search begins, and the request that it stands for. Raises InputError where the engine cannot run it."""
    request = request_of(room.setting, place, condition, condition.params)
    return Path(room.engine, cast(tuple[int, ...], request.prompt), request.params, Ledger()), request


def run_one(room: Room, place: Place, condition: Condition) -> tuple[Key, dict[str, Any]]:
    """The row of one problem. A search that fails is one too, with its reason."""
    assert condition.search is not None
    started = time.perf_counter()
    search, ballot = condition.search, Ballot(place.problem, room.booth)
    for tries in range(1, RETRIES + 2):
        trunk, request = root(room, place, condition)
        reward = None if search.reward is None else room.rewards.of(search.reward, place.problem, ballot)
        try:
            found = search.grow(Walk(trunk, search.steps, reward, search.how), search.size, ballot)
            return _found(room, place, condition, request, found, reward, ballot, started, tries)
        except StepFailed as error:
            why = str(error)
        except InputError as error:  # such as a path beyond the reward model's context
            why = str(error)
            break
    sample = Sample((), (), "", "", "error", 0, 0, None, len(request.prompt), 0, 0, error=why)
    return row_of(place, condition.label, request, sample, "search", trunk.ledger.generated, tries=tries)


def _found(
    room: Room,
    place: Place,
    condition: Condition,
    request: Request,
    found: Found,
    reward: Named | Modelled | None,
    ballot: Ballot,
    started: float,
    tries: int,
) -> tuple[Key, dict[str, Any]]:
    search = condition.search
    assert search is not None
    scores, answers = search.measure(found), ballot.answers(found.leaves)
    at = _place_of(search.choose(found.leaves, scores, ballot), answers, scores)
    leaf = found.leaves[at]
    assert isinstance(leaf, Path)
    sample = Sample(
        token_ids=leaf.token_ids,
        forced=leaf.forced,
        reasoning=leaf.spelled(leaf.token_ids[: leaf.thinking_tokens]).strip(),
        answer=leaf.answer,
        finish_reason=leaf.finish_reason,
        thinking_tokens=leaf.thinking_tokens,
        extensions=leaf.extensions,
        stop_reason=leaf.stop_reason,
        prompt_tokens=len(leaf.prompt),
        cached_tokens=0,
        completion_tokens=leaf.path_tokens,
        mean_logprob=leaf.logprob / max(1, leaf.drawn),
        timing={"total_s": round(time.perf_counter() - started, 6)},
    )
    of_policy = parameters(room.engine.config)
    of_reward, computed, reused = (0, 0, 0) if reward is None else (reward.parameters, reward.computed, reward.reused)
    key, row = row_of(place, condition.label, request, sample, "search", found.ledger.generated, tries=tries)
    return key, row | {
        "search": {
            "unique_tokens": found.ledger.generated,
            "path_tokens": max(one.path_tokens for one in found.leaves),
            "reward_tokens": {"computed": computed, "reused": reused},
            "parameters": {"policy": of_policy, "reward": of_reward},
            "flops": 2 * (of_policy * found.ledger.generated + of_reward * computed),
            "chosen": at,
            "leaves": [
                {
                    "answer": answers[i],
                    "score": _number(scores[i]) if scores else None,
                    "tokens": one.path_tokens,
                    "thinking_tokens": one.thinking_tokens,
                }
                for i, one in enumerate(found.leaves)
            ],
            "nodes": [_node(node, leaf, place.task.private) for node in found.nodes],
        }
    }


def _node(node: Node, any_branch: Branch, private: bool) -> dict[str, Any]:
    return {
        "parent": node.parent,
        "depth": node.depth,
        "text": "" if private else any_branch.spelled(node.token_ids),
        "tokens": len(node.token_ids),
        "score": None if node.score is None else _number(node.score),
        "width": node.width,
        "finished": node.finished,
    }


def _place_of(chosen: str | None, answers: Sequence[str | None], scores: Sequence[float]) -> int:
    """The first leaf with the chosen answer, of those the best one; where nothing voted the first leaf."""
    same = [at for at, answer in enumerate(answers) if answer is not None and answer == chosen]
    ranked = [-math.inf if not scores or math.isnan(scores[at]) else scores[at] for at in same]
    return same[ranked.index(max(ranked))] if same else 0


def _number(score: float) -> float | None:
    """As JSON has it: None where it is not finite."""
    return float(score) if math.isfinite(score) else None
