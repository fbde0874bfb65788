"""Tree searches against transcriptions of their published rules on random trees, and on s1-nano."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from hashlib import blake2b
from itertools import count
from math import ceil, exp
from pathlib import Path
from random import Random
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest

from engine import Engine, InputError, SamplingParams
from engine.search.beam import beam, diverse
from engine.search.branch import Branch, Ledger
from engine.search.rebase import rebase
from engine.search.reward import Aggregate, ModelReward, Reward, aggregate, mean_logprob, step_scores
from engine.search.sampling import samples, shortest, until
from engine.search.votes import decided, majority
from engine.search.walk import Found, Node, Steps, Walk

MODEL = str(Path(__file__).parents[3] / "models" / "s1-nano")
QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"
PathOf = tuple[int, ...]


def chance(tree: int, path: PathOf, what: str) -> float:
    digest = blake2b(f"{tree} {path} {what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def ends(tree: int, path: PathOf) -> bool:
    return chance(tree, path, "ends") < (0.25, 0.1, 0.6)[tree % 3]


def score(tree: int, path: PathOf) -> float:
    """Of few values in some trees, so that there are ties."""
    return round(chance(tree, path, "score"), (1, 3, 16)[tree // 3 % 3])


class Scripted:
    """A branch of a written tree: the n-th that goes on from a node takes its n-th child."""

    def __init__(self, tree: int, path: PathOf = (), number: int = 0) -> None:
        self.tree, self.token_ids, self.number = tree, path, number
        self.ledger, self.answer, self.finished, self.closed = Ledger(), "", False, False
        self.thinking_tokens = 0

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.token_ids) + 1))

    @property
    def logprobs(self) -> tuple[Any, ...]:
        return tuple(SimpleNamespace(logprob=-1.0, forced=False) for _ in self.token_ids)

    def spread(self, count: int) -> list["Scripted"]:
        rest = [Scripted(self.tree, self.token_ids, number) for number in range(1, count)]
        self.number = 0
        return [self, *rest]

    def begin(self, stop: Sequence[str], max_tokens: int | None) -> None:
        assert not self.finished

    def end(self) -> None:
        self.token_ids += (self.number,)
        self.finished = ends(self.tree, self.token_ids)

    def conclude(self) -> None:
        self.number = -1

    def close(self) -> None: ...


def walk_of(tree: int, most: int, how: Aggregate = "last") -> Walk:
    def reward(branches: Sequence[Any]) -> list[list[float]]:
        return [[score(tree, b.token_ids[:end]) for end in b.ends] for b in branches]

    root: Any = Scripted(tree)
    return Walk(root, Steps(stop=("x",), most=most), reward, how)


def paths(found: Found) -> list[PathOf]:
    """Of the leaves, without the forced answer of those that were open."""
    return [tuple(n for n in leaf.token_ids if n >= 0) for leaf in found.leaves]


def rebase_as_published(tree: int, width: int, temperature: float, most: int) -> list[PathOf]:
    """Widths from the best node down, rounded up, the later of equal ones first; in fractions, since floats round up
    once too often."""
    layer: list[PathOf] = [(n,) for n in range(width)]
    leaves: list[PathOf] = []
    remaining = width
    for step in range(most):
        done = [path for path in layer if ends(tree, path)]
        leaves, remaining = leaves + done, remaining - len(done)
        layer = [path for path in layer if path not in done]
        if remaining <= 0 or not layer:
            return leaves
        order = sorted(range(len(layer)), key=lambda at: score(tree, layer[at]))[::-1]
        weights = [Fraction(exp((score(tree, path) - score(tree, layer[order[0]])) / temperature)) for path in layer]
        local, total, widths = remaining, sum(weights), [0] * len(layer)
        for at in order:
            widths[at] = ceil(local * weights[at] / total) if local else 0
            local, total = local - widths[at], total - weights[at]
        grown = step < most - 1  # the last shares answer where they stand
        layer = [(*path, n) if grown else path for path, wide in zip(layer, widths, strict=True) for n in range(wide)]
    return leaves + layer


@pytest.mark.parametrize("width", [1, 4, 7, 16])
def test_rebase_selects_what_the_published_code_selects(width: int) -> None:
    for tree in range(600):
        most = 3 + tree % 6
        temperature = (0.1, 0.2, 1.0)[tree % 3]
        walk = walk_of(tree, most)
        found = rebase(walk, width, temperature)
        assert paths(found) == rebase_as_published(tree, width, temperature, most), tree
        assert len(found.leaves) == width, "as many answers as the width"
        drawn = [node for node in found.nodes if node.token_ids != (-1,)]
        assert len(drawn) <= width * most and all(n.parent is None or found.nodes[n.parent].width for n in drawn)


def beam_as_published(tree: int, n: int, m: int, most: int, how: str) -> list[PathOf]:
    """Refill by turns, score all, drop the ended, keep the best n / m; the last beams run to their end."""
    value = {"last": lambda p: score(tree, p), "min": lambda p: min(score(tree, p[:k]) for k in range(1, len(p) + 1))}[
        how
    ]
    active: list[PathOf] = [()]
    completed: list[PathOf] = []
    for _ in range(most):
        refilled = [active[at % len(active)] for at in range(n)]
        seen: dict[PathOf, Iterator[int]] = {path: count() for path in active}
        beams = [(*path, next(seen[path])) for path in refilled]
        completed += [path for path in beams if ends(tree, path)]
        going = [path for path in beams if not ends(tree, path)]
        ranked = sorted(range(len(going)), key=lambda at: (-value(going[at]), at))
        active = [going[at] for at in ranked[: n // m]]
        if len(completed) >= n:
            return completed[:n]
    return (completed + [active[at % len(active)] for at in range(n)])[:n]


@pytest.mark.parametrize(("n", "m"), [(4, 2), (8, 4), (6, 1), (9, 3)])
def test_beams_are_those_of_the_published_code(n: int, m: int) -> None:
    for tree in range(400):
        how: Aggregate = "last" if tree % 2 else "min"
        found = beam(walk_of(tree, 3 + tree % 6, how), n, m)
        assert paths(found) == beam_as_published(tree, n, m, 3 + tree % 6, how), tree


def diverse_as_published(tree: int, m: int, most: int) -> list[PathOf]:
    """One tree: the last round's candidates, also those that have not ended."""
    head: PathOf = ()
    row: list[PathOf] = []
    for _ in range(most):
        row = [(*head, number) for number in range(m)]
        head = max(row, key=lambda path: (score(tree, path), -path[-1]))
        if ends(tree, head):
            break
    return row


def test_a_diverse_tree_is_the_published_one() -> None:
    for tree in range(400):
        for m in (1, 4):
            assert paths(diverse(walk_of(tree, 3 + tree % 6), m, m)) == diverse_as_published(tree, m, 3 + tree % 6), (
                tree
            )


def test_an_answer_is_scored_by_how_its_steps_are_put_together() -> None:
    for how, value in (("last", 0.5), ("min", 0.2), ("mean", 0.4), ("prod", 0.05)):
        assert aggregate([0.5, 0.2, 0.5], how) == pytest.approx(value)  # type: ignore[arg-type]
    nan, inf = float("nan"), float("inf")
    for scores in ([-inf, -inf], [-inf, 0.0], [-inf, inf], [inf, 0.0]):
        for how in ("min", "mean", "prod"):
            worst = -inf in scores or (how == "prod" and scores == [inf, 0.0])
            assert (aggregate(scores, how) == -inf) == worst  # type: ignore[arg-type]
    root: Any = Scripted(1)
    [branch] = root.spread(1)
    branch.token_ids = (0, 1)
    assert step_scores(lambda branches: [[nan, 1.0]], [branch]) == [[-inf, 1.0]]
    with pytest.raises(InputError, match="aggregate is"):
        aggregate([1.0], "max")  # type: ignore[arg-type]


HOSTILE = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 5e-324, 0.0]


def test_shares_that_all_round_to_nothing_answer() -> None:
    """The paper's rule may give a branch too many, and then none to any: what was open answers, and is not lost."""
    for tree in range(600):
        nodes = rebase(walk_of(tree, 40), 16, 1.0, "paper").nodes
        deepest = max(node.depth for node in nodes)
        assert all(node.finished or node.token_ids == (-1,) for node in nodes if node.depth == deepest), tree


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_hostile_reward_loses_no_width(value: float, mixed: bool) -> None:
    def reward(branches: Sequence[Any]) -> list[list[float]]:
        return [[value if not mixed or at % 2 else 0.5 for _ in b.ends] for at, b in enumerate(branches)]

    for tree in range(12):
        for search, leaves in ((rebase, 8), (beam, 8), (diverse, 8)):
            root: Any = Scripted(tree)
            walk = Walk(root, Steps(stop=("x",), most=5), reward)
            found = search(walk, 8)
            assert len(found.leaves) == leaves and all(
                leaf.finished or leaf.token_ids[-1] == -1 for leaf in found.leaves
            )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda branches: [], "scored 0 of . branches"),
        (lambda branches: [[] for _ in branches], "gave branch 0 0 scores"),
        (lambda branches: [0.5 for _ in branches], "gave branch 0 no list of scores"),
        (lambda branches: [[1.0, 2.0] for _ in branches], "gave branch 0 2 scores"),
    ],
)
def test_a_reward_of_the_wrong_length_is_named(given: Any, said: str) -> None:
    root: Any = Scripted(1)
    with pytest.raises(InputError, match=said):
        rebase(Walk(root, Steps(stop=("x",), most=5), given), 4)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(MODEL, device="cpu", dtype="float32", kv_cache_tokens=16384) as engine:
        yield engine


@pytest.fixture
def prompt(engine: Engine) -> list[int]:
    return list(engine.prepare(QUESTION, SamplingParams()).prompt)


PARAMS = SamplingParams(max_tokens=200, temperature=1.2, seed=3, thinking_token_budget=100, thinking_extensions=1)
LINES = Steps(stop=("\n",), most=12)
SEARCHES: dict[str, Any] = {
    "rebase": lambda walk: rebase(walk, 8, 0.2),
    "beam": lambda walk: beam(walk, 8, 4),
    "diverse": lambda walk: diverse(walk, 8, 4),
    "samples": lambda walk: samples(walk, 8),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_accounts_for_every_token_and_page(engine: Engine, prompt: list[int], name: str) -> None:
    before = engine.stats()
    found = SEARCHES[name](Walk(Branch(engine, prompt, PARAMS), LINES, mean_logprob))
    after = engine.stats()
    assert len(found.leaves) == 8 and all(leaf.finished and leaf.answer for leaf in found.leaves)
    assert found.ledger.generated == sum(len(node.token_ids) for node in found.nodes)
    # A step's first token comes from its prompt's last one, every other from the token before it.
    assert found.ledger.generated == after["decode_tokens"] - before["decode_tokens"] + len(found.nodes)
    assert found.ledger.generated <= sum(leaf.path_tokens for leaf in found.leaves) or name != "samples"
    for leaf in found.leaves:
        assert leaf.thinking_tokens <= 100 and leaf.path_tokens <= 200
    engine.check()
    assert after["pages_free"] == after["pages_total"]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_the_same_whenever_and_beside_whatever_it_runs(
    engine: Engine, prompt: list[int], name: str
) -> None:
    alone = SEARCHES[name](Walk(Branch(engine, prompt, PARAMS), LINES, mean_logprob))
    noise = [engine.submit(prompt, SamplingParams(max_tokens=150, seed=n, temperature=1.0)) for n in range(20)]
    beside = SEARCHES[name](Walk(Branch(engine, prompt, PARAMS), LINES, mean_logprob))
    for handle in noise:
        handle.result()
    assert beside.nodes == alone.nodes and beside.scores == alone.scores
    with Engine(MODEL, device="cpu", dtype="float32", kv_cache_tokens=512, enable_prefix_caching=False) as tight:
        again = SEARCHES[name](Walk(Branch(tight, prompt, PARAMS), LINES, mean_logprob))
    assert again.nodes == alone.nodes and again.scores == alone.scores


@pytest.mark.parametrize("name", SEARCHES)
def test_a_tree_has_no_more_tokens_than_it_may(engine: Engine, prompt: list[int], name: str) -> None:
    """No step begins once they are there: what is open answers. A tree that needs fewer is as if nothing were said."""

    def search(most: int | None) -> tuple[Found, list[int]]:
        walk, before = Walk(Branch(engine, prompt, PARAMS), replace(LINES, tree_tokens=most), mean_logprob), list[int]()
        grown = walk.grow
        walk.grow = lambda branches: (before.append(walk.root.ledger.generated), grown(branches))[1]  # type: ignore[method-assign]
        return SEARCHES[name](walk), before

    free, _ = search(None)
    for most in (1, 50, 100, 200):
        found, before = search(most)
        assert before[-1] < most <= found.ledger.generated < free.ledger.generated
        assert len(found.leaves) == 8 and all(leaf.finished and leaf.answer for leaf in found.leaves)
    assert search(free.ledger.generated)[0].nodes == free.nodes
    root = Branch(engine, prompt, PARAMS)
    other = root.fork(1)[0]
    sizes = [SEARCHES[name](Walk(one, replace(LINES, tree_tokens=100), mean_logprob)).nodes for one in (root, other)]
    assert min(sum(len(node.token_ids) for node in nodes) for nodes in sizes) >= 100, "each tree has its own tokens"


def test_votes_and_the_shortest_stop_where_the_tokens_do(engine: Engine, prompt: list[int]) -> None:
    def walk(most: int | None) -> Walk:
        return Walk(Branch(engine, prompt, PARAMS), replace(LINES, tree_tokens=most))

    whole = [leaf.token_ids for leaf in samples(walk(None), 12).leaves]
    for most in (1, 2 * sum(map(len, whole[:3])) // 2):
        drawn = [leaf.token_ids for leaf in until(walk(most), 12, 1, lambda drawn: False).leaves]
        assert drawn == whole[: 1 if most == 1 else 3], "a sample that was begun is drawn to its end"
    found = shortest(walk(60), 8, 3, slice_tokens=4)
    assert len(found.leaves) == 3 and all(leaf.finished and leaf.answer for leaf in found.leaves)
    assert found.ledger.generated < shortest(walk(None), 8, 3, slice_tokens=4).ledger.generated


class Fault(Exception):
    """What a reward may raise."""


@pytest.mark.parametrize("fault", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_reward_that_fails_ends_the_search_and_leaves_nothing(
    engine: Engine, prompt: list[int], name: str, fault: type[BaseException]
) -> None:
    """At its first call, its second, and so on to its last; the same search is whole afterwards."""

    def search(failing: int) -> list[Node]:
        calls = count()

        def reward(branches: Sequence[Branch]) -> list[list[float]]:
            if next(calls) == failing:
                raise fault
            return mean_logprob(branches)

        return SEARCHES[name](Walk(Branch(engine, prompt, PARAMS), LINES, reward)).nodes

    for failing in count():
        try:
            nodes = search(failing)
        except fault:
            engine.check()
            assert engine.stats()["pages_free"] == engine.stats()["pages_total"]
        else:
            break
    assert failing > 0 and nodes == search(-1)


def test_a_slow_reward_changes_no_tree(engine: Engine, prompt: list[int]) -> None:
    def slow(branches: Sequence[Branch]) -> list[list[float]]:
        sleep(Random(len(branches[0].token_ids)).random() / 50)
        return mean_logprob(branches)

    def search(reward: Reward) -> list[Node]:
        return rebase(Walk(Branch(engine, prompt, PARAMS), LINES, reward), 8, 0.2).nodes

    with ThreadPoolExecutor(4) as pool:
        slowly = list(pool.map(search, [slow] * 4))
    assert slowly == [search(mean_logprob)] * 4


def test_equal_siblings_score_alike_and_all_stay(engine: Engine, prompt: list[int]) -> None:
    """Drawn greedily every branch is the same: none is merged, each has its vote."""
    found = rebase(Walk(Branch(engine, prompt, replace(PARAMS, temperature=0.0)), LINES, mean_logprob), 5, 0.2)
    assert len({leaf.token_ids for leaf in found.leaves}) == 1 and len(found.leaves) == 5
    for depth in range(1 + max(node.depth for node in found.nodes)):
        layer = [node for node in found.nodes if node.depth == depth]
        assert len(layer) == 5 and len({(node.score, node.width, node.token_ids) for node in layer}) == 1
    assert majority([leaf.answer for leaf in found.leaves]) == found.leaves[0].answer


def test_a_search_one_wide_is_a_plain_sample(engine: Engine, prompt: list[int]) -> None:
    plain = engine.generate([prompt], PARAMS)[0].outputs[0]
    for search in (lambda walk: rebase(walk, 1), lambda walk: beam(walk, 1, 1), lambda walk: diverse(walk, 1, 1)):
        [leaf] = search(Walk(Branch(engine, prompt, PARAMS), Steps(stop=("\n",), most=99), mean_logprob)).leaves
        assert list(leaf.token_ids) == plain.token_ids and leaf.answer == plain.answer


def test_a_leaf_is_the_run_that_its_choices_make(engine: Engine, prompt: list[int]) -> None:
    """The model finds every drawn token of a path as likely as when the path is read in one go."""
    found = rebase(Walk(Branch(engine, prompt, PARAMS), LINES, mean_logprob), 6)
    for leaf in found.leaves:
        fresh = Branch(engine, prompt, PARAMS)
        fresh.force(leaf.token_ids[:-1])
        for at, one in enumerate(leaf.logprobs):
            probe = engine.generate(
                [[*prompt, *leaf.token_ids[:at]]],
                SamplingParams(max_tokens=1, logprobs=64, thinking_format="none"),
            )[0].outputs[0]
            assert probe.logprobs is not None
            top = dict(probe.logprobs[0].top)
            if one.token_id in top:
                assert one.logprob == top[one.token_id]


def test_a_vote_stops_when_nothing_can_change_it(engine: Engine, prompt: list[int]) -> None:
    whole = samples(Walk(Branch(engine, prompt, PARAMS), LINES), 12)
    votes = [leaf.answer for leaf in whole.leaves]

    def enough(drawn: Sequence[Branch]) -> bool:
        return decided([leaf.answer for leaf in drawn], 12 - len(drawn))

    early = until(Walk(Branch(engine, prompt, PARAMS), LINES), 12, 1, enough)
    drawn = [leaf.answer for leaf in early.leaves]
    assert drawn == votes[: len(drawn)] and len(drawn) < 12
    assert max(set(drawn), key=drawn.count) == max(set(votes), key=votes.count)
    assert early.ledger.generated < whole.ledger.generated


def test_the_shortest_thoughts_are_kept(engine: Engine, prompt: list[int]) -> None:
    params = SamplingParams(max_tokens=300, temperature=1.3, seed=1, thinking_extensions=1)
    whole = samples(Walk(Branch(engine, prompt, params), LINES), 8)
    found = shortest(Walk(Branch(engine, prompt, params), LINES), 8, 2, slice_tokens=3)
    ranked = sorted(range(8), key=lambda at: (whole.leaves[at].thinking_tokens, at))[:2]
    assert [leaf.token_ids for leaf in found.leaves] == [whole.leaves[at].token_ids for at in sorted(ranked)]
    assert found.ledger.generated < whole.ledger.generated


def test_a_judge_that_reads_text_takes_steps_without_any(engine: Engine, prompt: list[int]) -> None:
    """The path's end alone, an EOS, is a step of no text: it has the score of the step before."""
    params = SamplingParams(max_tokens=120, thinking_format="none")
    whole = engine.generate([prompt], params)[0].outputs[0].text
    branch = Branch(engine, prompt, params)
    while not branch.finished:
        branch.step(stop=("no\n", whole[-20:]))
    [last] = branch.token_ids[branch.ends[-2] :]
    assert last in engine.tokenizer.eos_token_ids
    judge = ModelReward(engine, {"messages": [{"role": "user", "content": QUESTION}]}, labels=("1", "2"))
    [scores] = step_scores(judge, [branch])
    assert scores[-1] == scores[-2] and len(set(scores)) == len(scores) - 1


def test_what_a_search_cannot_do_is_refused(engine: Engine, prompt: list[int]) -> None:
    for fields in ({"tree_tokens": 1.5}, {"tree_tokens": True}, {"max_tokens": -3}, {"most": "4"}):
        with pytest.raises(InputError, match=r"give a whole number|in all; give at least"):
            Steps(**fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a search of 0 branches"):
        samples(Walk(Branch(engine, prompt, PARAMS), LINES), 0)
    used = Walk(Branch(engine, prompt, PARAMS), LINES)
    fresh = used.root.fork(1)[0]
    samples(used, 2)
    for again in (used, Walk(used.root, LINES)):
        with pytest.raises(InputError, match=r"was used up by a search; give each search a new walk"):
            samples(again, 2)
    assert len(samples(Walk(fresh, LINES), 2).leaves) == 2
    with pytest.raises(InputError, match=r"the prompt of a branch is .*; give token ids, engine.prepare"):
        Branch(engine, QUESTION, PARAMS)  # type: ignore[arg-type]
    walk = Walk(Branch(engine, prompt, PARAMS), LINES)
    with pytest.raises(InputError, match="give it a reward"):
        rebase(walk, 4)
    for search in (
        lambda: rebase(walk, 0),
        lambda: beam(walk, 5, 2),
        lambda: diverse(walk, 2, 4),
        lambda: shortest(walk, 2, 3),
    ):
        with pytest.raises(InputError, match="give"):
            search()
    assert Steps(stop="\n\n").stop == ("\n\n",)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one mark or a number"):
        Steps(stop=())
    with pytest.raises(InputError, match="scored 1 of 0"):
        step_scores(lambda branches: [[1.0]], [])
