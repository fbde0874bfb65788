"""Strategies over branches: sample N and choose. Tree searches (REBASE, beam, DVTS) are further loops of this kind."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.evaluation.branch import Branch


@dataclass(frozen=True)
class Chosen:
    """What a search answers, and what it cost in tokens: generated once, and along the longest path."""

    answer: str | None
    unique_tokens: int
    path_tokens: int


def mean_logprob(branches: Sequence[Branch]) -> list[float]:
    """Scores that need no reward model, higher is better: the mean log-probability of what was drawn."""
    return [branch.logprob / branch.drawn if branch.drawn else 0.0 for branch in branches]


def sample(root: Branch, count: int, workers: int = 16) -> list[Branch]:
    """`count` forks of `root`, each drawn to its end, all at once."""
    leaves = root.fork(count)
    with ThreadPoolExecutor(min(workers, count)) as pool:
        list(pool.map(Branch.step, leaves))
    return leaves


def best_of(
    root: Branch, leaves: Sequence[Branch], scores: Sequence[float], answer: Callable[[str], str | None]
) -> Chosen:
    """The answer of the highest-scored leaf that has one; of equal scores, of the first."""
    ranked = sorted(zip(scores, range(len(leaves)), strict=True), key=lambda pair: (-pair[0], pair[1]))
    found = next((said for _, i in ranked if (said := answer(leaves[i].text)) is not None), None)
    return _chosen(root, leaves, found)


def majority(root: Branch, leaves: Sequence[Branch], answer: Callable[[str], str | None]) -> Chosen:
    """The most frequent answer of the leaves; of equal counts the one that the earlier leaf gave."""
    counts = Counter(said for leaf in leaves if (said := answer(leaf.text)) is not None)
    return _chosen(root, leaves, counts.most_common(1)[0][0] if counts else None)


def decided(votes: Sequence[str], count: int) -> bool:
    """Whether the leader of the votes so far cannot be caught by the `count - len(votes)` that are still out: exact."""
    ranked = [number for _, number in Counter(votes).most_common(2)]
    return bool(ranked) and ranked[0] - (ranked[1] if len(ranked) > 1 else 0) > count - len(votes)


def _chosen(root: Branch, leaves: Sequence[Branch], answer: str | None) -> Chosen:
    return Chosen(answer, root.ledger.generated, max((leaf.path_tokens for leaf in leaves), default=0))
