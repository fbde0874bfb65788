"""A search under way: the tree that its branches grow, node by node, and how far a step goes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.errors import InputError, is_whole, shown
from engine.search.branch import Branch, Ledger, conclude, grow
from engine.search.reward import Aggregate, Reward, aggregate, step_scores


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Where steps end, and how many there may be. After `most` steps a branch is closed and must answer, and so are all
    once the tree has `tree_tokens`: it is then over by one step of its branches, and by their answers, at most. (Of
    `sampling.until` a step is a window of whole samples, of `sampling.shortest` a slice.)"""

    stop: tuple[str, ...] = ("\n\n",)
    max_tokens: int | None = None
    """of a step; None: as many as come before a mark"""
    most: int = 40
    tree_tokens: int | None = None
    """of the whole tree, each once; None: as many as it takes"""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("max_tokens", "tree_tokens"):
            value = getattr(self, name)
            if value is not None and not is_whole(value, 1):
                raise InputError(f"{name} of steps is {shown(value)}; give a whole number of at least 1, or None")
        if not is_whole(self.most, 1) or not (self.stop or self.max_tokens):
            raise InputError(
                f"steps with marks {self.stop}, {self.max_tokens} tokens, {shown(self.most)} in all; give at least "
                "one mark or a number of tokens, and one step"
            )


@dataclass
class Node:
    """One step in the tree."""

    parent: int | None
    """number of the node before it; None: the prompt"""
    depth: int
    token_ids: tuple[int, ...]
    logprob: float
    finished: bool
    score: float | None = None
    """of the path up to here; None: nobody asked"""
    width: int = 0
    """branches that go on from here"""


@dataclass
class Found:
    """What a search came to."""

    leaves: list[Branch]
    """branches that answered, in the order of their creation"""
    scores: list[float]
    """of the leaves; empty where there is no reward"""
    nodes: list[Node]
    ledger: Ledger = field(repr=False)


class Walk:
    """Branches behind one prompt, grown step by step. Everything about the tree is known from `nodes`."""

    def __init__(self, root: Branch, steps: Steps, reward: Reward | None = None, how: Aggregate = "last") -> None:
        self.root, self.steps, self.nodes = root, steps, list[Node]()
        self._reward, self._how = reward, how
        self._at: dict[Branch, int | None] = {}

    def start(self, count: int) -> list[Branch]:
        """`count` branches that go on from the root. Raises InputError where a search used them up."""
        if not is_whole(count, 1):
            raise InputError(f"a search of {shown(count)} branches; give at least 1")
        if self.nodes or self.root.finished or self.root.closed:
            raise InputError(
                "the walk or its root was used up by a search; give each search a new walk, of a root that was forked "
                "before (`root.fork(1)[0]`)"
            )
        return self.spread(self.root, count)

    def spread(self, branch: Branch, count: int) -> list[Branch]:
        """`branch` and forks of it, `count` in all."""
        branches, at = branch.spread(count), self._at.get(branch)
        self._at |= dict.fromkeys(branches, at)
        if at is not None:
            self.nodes[at].width += count
        return branches

    @property
    def stepwise(self) -> bool:
        """Whether it matters where steps end: a reward scores them, or the tree may have so many tokens."""
        return self._reward is not None or self.steps.tree_tokens is not None

    def rounds(self) -> Iterator[int]:
        """Numbers of the steps that may still be taken."""
        for number in range(self.steps.most):
            if self.spent:
                break
            yield number

    @property
    def spent(self) -> bool:
        """Whether the tree has all the tokens that it may have."""
        most = self.steps.tree_tokens
        return most is not None and sum(len(node.token_ids) for node in self.nodes) >= most

    def grow(self, branches: Sequence[Branch]) -> None:
        """One step of each, all at once, and a node for it."""
        self._enter(branches, lambda: grow(branches, self.steps.stop, self.steps.max_tokens))

    def grow_by(self, branches: Sequence[Branch], tokens: int | None) -> None:
        """As `grow`, without regard to marks: `tokens` of each, or all that is left."""
        self._enter(branches, lambda: grow(branches, (), tokens))

    def _enter(self, branches: Sequence[Branch], growing: Callable[[], object]) -> None:
        before = [len(branch.token_ids) for branch in branches]
        growing()
        for branch, start in zip(branches, before, strict=True):
            parent = self._at[branch]
            depth = 0 if parent is None else self.nodes[parent].depth + 1
            drawn = sum(one.logprob for one in branch.logprobs[start:] if not one.forced)
            self._at[branch] = len(self.nodes)
            self.nodes.append(Node(parent, depth, branch.token_ids[start:], drawn, branch.finished))

    def score(self, branches: Sequence[Branch]) -> list[float]:
        """A score of each branch's path, also entered in its node. Raises InputError where the search has no reward."""
        if self._reward is None:
            raise InputError("this search chooses by scores; give it a reward")
        scores = [aggregate(each, self._how) for each in step_scores(self._reward, branches)] if branches else []
        for branch, score in zip(branches, scores, strict=True):
            at = self._at[branch]
            assert at is not None
            self.nodes[at].score = score
        return scores

    def found(self, leaves: Sequence[Branch]) -> Found:
        """The end: every branch that has not ended answers now, and all are scored where there is a reward."""
        unfinished = [leaf for leaf in leaves if not leaf.finished]
        if unfinished:
            self._enter(unfinished, lambda: conclude(unfinished))
        return Found(list(leaves), [] if self._reward is None else self.score(leaves), self.nodes, self.root.ledger)
