"""The search interface on s1-nano: branches against plain samples, forks, forced tokens, counts and strategies."""

from collections import Counter
from pathlib import Path

import pytest

from bench.evaluation.branch import Branch
from bench.evaluation.search import best_of, decided, majority, mean_logprob, sample
from curate.grading.extract import extract
from engine import Engine, InputError, SamplingParams

MODEL = str(Path(__file__).parents[2] / "models" / "s1-nano")
QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, device="cpu", dtype="float32", kv_cache_tokens=16384) as engine:
        yield engine


@pytest.fixture
def prompt(engine):
    return list(engine.prepare(QUESTION, SamplingParams()).prompt)


def said(text):
    return extract(text.rsplit("answer", 1)[-1]).text


def test_a_branch_of_one_step_is_a_plain_sample(engine, prompt):
    params = SamplingParams(thinking_token_budget=24, max_tokens=96, temperature=0.9, seed=5, logprobs=0)
    plain = engine.generate([prompt], params)[0].outputs[0]
    branch = Branch(engine, prompt, params)
    step = branch.step()
    assert list(step.token_ids) == plain.token_ids and list(branch.forced) == plain.forced and step.finished
    assert step.logprob == pytest.approx(plain.cumulative_logprob)
    assert branch.ledger.generated == branch.path_tokens == len(plain.token_ids)
    with pytest.raises(InputError, match="has ended"):
        branch.step()


def test_steps_by_line_make_the_greedy_trace(engine, prompt):
    """Line by line, boundaries kept, nothing tokenized again: the ids are those of one generation."""
    params = SamplingParams(max_tokens=200)
    whole = engine.generate([prompt], params)[0].outputs[0]
    branch = Branch(engine, prompt, params)
    start = engine.tokenizer.special_id("<|im_start|>")
    lines = 0
    while start not in branch.token_ids:
        step = branch.step(stop=("\n", "<|im_start|>"))
        assert step.token_ids and not step.finished
        lines += 1
    assert lines > 2 and list(branch.token_ids) == whole.token_ids[: branch.path_tokens]
    branch.step()
    assert list(branch.token_ids) == whole.token_ids and branch.finished


def test_forks_share_a_prefix_that_is_counted_once(engine, prompt):
    root = Branch(engine, prompt, SamplingParams(max_tokens=120, temperature=2.5, seed=1))
    root.step(max_tokens=20)
    before, hits = root.ledger.generated, engine.stats()["prefix_hit_tokens"]
    leaves = sample(root, 6)
    assert before == 20 and all(leaf.token_ids[:20] == root.token_ids for leaf in leaves)
    grown = sum(leaf.path_tokens - 20 for leaf in leaves)
    assert root.ledger.generated == 20 + grown < sum(leaf.path_tokens for leaf in leaves)
    assert engine.stats()["prefix_hit_tokens"] > hits
    assert len({leaf.token_ids for leaf in leaves}) > 1  # each has draws of its own
    again = Branch(engine, prompt, SamplingParams(max_tokens=120, temperature=2.5, seed=1))
    again.step(max_tokens=20)
    assert [leaf.token_ids for leaf in sample(again, 6, workers=1)] == [leaf.token_ids for leaf in leaves]
    early = leaves[0].fork(1, at=7)[0]
    assert early.token_ids == root.token_ids[:7] and early.drawn == 0


def test_a_forced_end_turns_any_branch_into_a_vote(engine, prompt):
    branch = Branch(engine, prompt, SamplingParams(max_tokens=60))
    branch.step(max_tokens=9)
    end = engine.tokenizer.encode("\n<|im_start|>answer\nFinal Answer:", specials=True)
    branch.force(end)
    assert branch.forced == tuple(range(9, 9 + len(end)))
    branch.step()
    assert branch.finished and said(branch.text) is not None
    assert branch.ledger.generated == branch.path_tokens


def test_strategies_choose_and_count(engine, prompt):
    root = Branch(engine, prompt, SamplingParams(max_tokens=160, temperature=1.0, seed=3))
    leaves = sample(root, 8)
    votes = [said(leaf.text) for leaf in leaves]
    chosen = majority(root, leaves, said)
    assert chosen.answer in votes and votes.count(chosen.answer) == Counter(votes).most_common(1)[0][1]
    scores = mean_logprob(leaves)
    best = best_of(root, leaves, scores, said)
    assert best.answer == votes[scores.index(max(scores))] and all(score <= 0 for score in scores)
    assert best_of(root, leaves, [0.0] * 8, said).answer == votes[0]  # equal scores: the first
    assert chosen.unique_tokens == sum(leaf.path_tokens for leaf in leaves)
    assert chosen.path_tokens == max(leaf.path_tokens for leaf in leaves)
    assert majority(root, leaves, lambda text: None).answer is None
    greedy = SamplingParams(max_tokens=160)
    (alone,) = sample(Branch(engine, prompt, greedy), 1)
    assert list(alone.token_ids) == engine.generate([prompt], greedy)[0].outputs[0].token_ids


@pytest.mark.parametrize(
    ("votes", "count", "over"),
    [("aa", 3, True), ("ab", 3, False), ("aab", 4, False), ("aaab", 5, True), ("", 3, False)],
)
def test_voting_is_over_when_the_leader_cannot_be_caught(votes, count, over):
    assert decided(votes, count) is over


def test_pages_are_free_after_the_search(engine, prompt):
    root = Branch(engine, prompt, SamplingParams(max_tokens=40, temperature=1.0, seed=9))
    for leaf in sample(root, 4):
        leaf.close()
        with pytest.raises(InputError, match="closed"):
            leaf.step()
    engine.check()
    assert engine.stats()["pages_free"] == engine.stats()["pages_total"]


def test_what_a_branch_cannot_do_is_refused(engine, prompt):
    with pytest.raises(InputError, match="n is 2"):
        Branch(engine, prompt, SamplingParams(n=2))
    branch = Branch(engine, prompt, SamplingParams(max_tokens=40))
    for count, at in ((0, None), (1, 5), (1, -1)):
        with pytest.raises(InputError, match="fork of"):
            branch.fork(count, at)
