"""Branches on s1-nano: steps against requests that never pause, forks, forced tokens, and what each costs."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, EngineDead, InputError, SamplingParams
from engine.search.branch import Branch, conclude, grow

MODEL = str(Path(__file__).parents[3] / "models" / "s1-nano")
QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, device="cpu", dtype="float32", kv_cache_tokens=16384) as engine:
        yield engine


@pytest.fixture
def prompt(engine):
    return list(engine.prepare(QUESTION, SamplingParams()).prompt)


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


THINK = {"opener": "<|im_start|>think", "end": "so 1", "budget_end": "so 1", "triggers": ["so 1"]}
"""Whose end is plain text, which the model writes by itself."""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 1.3},
        {"thinking_token_budget": 40, "temperature": 0.7},
        {"thinking_extensions": 2, "thinking_token_budget": 300},
        {"thinking_extensions": 3, "thinking_extension_str": "Wait, let me", "temperature": 1.0, "min_tokens": 90},
        {"thinking_extensions": 2, "thinking_extension_str": "", "temperature": 0.5},
        {"min_thinking_tokens": 70, "thinking_token_budget": 90, "thinking_end_str": "Stop<|im_start|>answer\nIt is"},
        {"thinking_budget_action": "truncate", "thinking_token_budget": 33, "temperature": 1.0},
        {"thinking_token_budget": 30, "thinking_grace_tokens": 20, "repetition_penalty": 1.05},
        {"thinking_format": "none", "temperature": 1.0, "max_tokens": 50},
        {"stop": ("r:",), "logprobs": 2},
        {"thinking_format": THINK, "temperature": 1.0, "thinking_token_budget": 60},
    ],
)
@pytest.mark.parametrize("step", [{"stop": "\n"}, {"max_tokens": 7}, {"stop": ("7", " so"), "max_tokens": 11}])
def test_steps_make_the_request_that_never_pauses(engine, prompt, fields, step):
    """Ids, forced positions, log-probabilities and answer."""
    params = SamplingParams(**{"max_tokens": 200, "seed": 5, "logprobs": 0} | fields)
    whole = engine.generate([prompt], params)[0].outputs[0]
    branch = Branch(engine, prompt, params)
    while not branch.finished:
        added = branch.step(**step)
        assert added.token_ids and (added.finished or branch.token_ids[-1] not in branch.forced)
    assert list(branch.token_ids) == whole.token_ids and list(branch.forced) == whole.forced
    assert len(branch.ends) > 2 and branch.ends[-1] == branch.ledger.generated == len(whole.token_ids)
    assert [one.logprob for one in branch.logprobs] == [one.logprob for one in whole.logprobs]
    assert branch.answer == whole.answer and branch.logprob == pytest.approx(whole.cumulative_logprob)
    with pytest.raises(InputError, match="has ended"):
        branch.step()


def test_a_step_ends_behind_its_mark(engine, prompt):
    branch = Branch(engine, prompt, SamplingParams(max_tokens=200))
    lines = []
    while not branch.finished:
        lines.append(engine.tokenizer.decode(branch.step(stop=("\n",)).token_ids))
    assert len(lines) > 3 and all(line.endswith("\n") and line.count("\n") == 1 for line in lines[:-1])
    assert "answer" in lines[-1]


def test_a_step_computes_what_it_adds(engine, prompt):
    """16 tokens a step, pages of 64: one token is computed again, the last of the path, whose logits nobody kept."""
    params = SamplingParams(max_tokens=150, seed=2, temperature=1.0, thinking_extensions=9)
    branch = Branch(engine, prompt, params)
    branch.step(max_tokens=16)
    for _ in range(4):
        before = engine.stats()["prefill_tokens"]
        twins = [branch, *branch.fork(3)]
        grow(twins, max_tokens=16)
        assert engine.stats()["prefill_tokens"] - before == 4
        branch = twins[2]


def test_forks_share_a_prefix_that_is_counted_once(engine, prompt):
    root = Branch(engine, prompt, SamplingParams(max_tokens=120, temperature=2.5, seed=1))
    root.step(max_tokens=20)
    assert root.ledger.generated == 20
    leaves = root.fork(6)
    grow(leaves)
    assert all(leaf.token_ids[:20] == root.token_ids for leaf in leaves)
    grown = sum(leaf.path_tokens - 20 for leaf in leaves)
    assert root.ledger.generated == 20 + grown < sum(leaf.path_tokens for leaf in leaves)
    assert len({leaf.token_ids for leaf in leaves}) > 1  # each has draws of its own
    again = Branch(engine, prompt, SamplingParams(max_tokens=120, temperature=2.5, seed=1))
    again.step(max_tokens=20)
    one_by_one = again.fork(6)
    for leaf in one_by_one:
        leaf.step()
    assert [leaf.token_ids for leaf in one_by_one] == [leaf.token_ids for leaf in leaves]
    early = leaves[0].fork(1, at=7)[0]
    assert early.token_ids == root.token_ids[:7] and early.drawn == 7 and not early.finished
    assert early.logprob == pytest.approx(sum(one.logprob for one in root.logprobs[:7]))


def test_a_fork_inside_the_path_keeps_the_waits_before_it(engine, prompt):
    params = SamplingParams(max_tokens=300, thinking_extensions=2)
    branch = Branch(engine, prompt, params)
    branch.step()
    wait = len(engine.tokenizer.encode("Wait"))
    first, second = branch._extended
    longer = Branch(engine, prompt, replace(params, thinking_extension_str="Wait, let me"))
    longer.step()
    with pytest.raises(InputError, match="inside what was written"):
        longer.fork(1, at=longer._extended[0] + 1)
    for at, left in ((first, 2), (first + wait, 1), (second, 1), (second + wait + 1, 0)):
        child = branch.fork(1, at=at)[0]
        child.step()
        rest = engine.generate([[*prompt, *branch.token_ids[:at]]], replace(params, thinking_extensions=left))
        assert list(child.token_ids[at:]) == rest[0].outputs[0].token_ids


def test_a_forced_end_turns_any_branch_into_a_vote(engine, prompt):
    params = SamplingParams(max_tokens=60, temperature=1.5, seed=4)
    branches = Branch(engine, prompt, params).fork(4)
    grow(branches, max_tokens=9)
    written = branches[0].fork(1)[0]
    conclude(branches)
    assert all(branch.finished and branch.answer.startswith("Final Answer:") for branch in branches)
    cut = replace(params, thinking_token_budget=9, seed=branches[0]._params.seed)
    assert list(branches[0].token_ids) == engine.generate([prompt], cut)[0].outputs[0].token_ids
    end = engine.tokenizer.encode("\n<|im_start|>answer\nFinal Answer:", specials=True)
    written.force(end)
    assert written.forced == tuple(range(9, 9 + len(end))) and written.logprobs[9].forced
    written.step()
    assert written.finished and written.answer.startswith("Final Answer:") and written.thinking_tokens == 9


def test_a_fork_behind_the_thinking_has_the_answer_alone(engine, prompt):
    whole = Branch(engine, prompt, SamplingParams(max_tokens=200))
    whole.step()
    assert whole.answer.startswith("Answer: ")
    late = whole.fork(1, at=whole.path_tokens - 2)[0]
    late.step()
    assert late.answer == whole.answer and late.thinking_tokens == whole.thinking_tokens > 0
    concluded = Branch(engine, prompt, SamplingParams(max_tokens=200))
    concluded.step(max_tokens=12)
    conclude([concluded])
    early = concluded.fork(1, at=10)[0]  # its budget is what it was
    early.step(max_tokens=8)
    assert not early.finished and early.path_tokens == 18
    spelled = Branch(engine, prompt, SamplingParams(max_tokens=60, thinking_format=THINK))
    spelled.step(max_tokens=5)
    spelled.force(engine.tokenizer.encode("\nso 1"))
    spelled.step()
    assert spelled.finished and "so 1" not in spelled.answer and spelled.text.endswith(spelled.answer)


def test_a_branch_in_a_step_is_left_alone(engine, prompt):
    branch = Branch(engine, prompt, SamplingParams(max_tokens=90))
    branch.begin(max_tokens=8)
    for what in (lambda: branch.force([5]), branch.conclude, lambda: branch.fork(1), lambda: branch.begin()):
        with pytest.raises(InputError, match="is in a step"):
            what()
    branch.end()
    while not branch.finished:
        branch.step(max_tokens=8)
    assert list(branch.token_ids) == engine.generate([prompt], SamplingParams(max_tokens=90))[0].outputs[0].token_ids


def test_a_closed_engine_ends_no_branch(prompt):
    engine = Engine(MODEL, device="cpu", dtype="float32", kv_cache_tokens=4096)
    branch = Branch(engine, prompt, SamplingParams(max_tokens=3000, thinking_extensions=99))
    branch.begin()
    engine.close()
    with pytest.raises(EngineDead):
        branch.end()
    assert not branch.finished


def test_pages_are_free_after_the_search(engine, prompt):
    root = Branch(engine, prompt, SamplingParams(max_tokens=40, temperature=1.0, seed=9))
    leaves = root.fork(4)
    leaves[0].begin(max_tokens=30)
    grow(leaves[1:], max_tokens=5)
    for leaf in leaves:  # the first while it is in a step
        leaf.close()
        with pytest.raises(InputError, match="closed"):
            leaf.step()
    engine.generate([prompt], SamplingParams(max_tokens=20))
    engine.check()
    assert engine.stats()["pages_free"] == engine.stats()["pages_total"]


def test_what_a_branch_cannot_do_is_refused(engine, prompt):
    with pytest.raises(InputError, match="n is 2"):
        Branch(engine, prompt, SamplingParams(n=2))
    plain = {"stop": ("x",), "thinking_format": "none"}
    loop = {"loop_ngram": 1, "loop_count": 9}
    for fields in (
        {"presence_penalty": 1.0},
        {"pause": ("x",)},
        {"pause_tokens": 3},
        plain,
        loop,
        {"ignore_eos": True},
    ):
        with pytest.raises(InputError, match=next(iter(fields))):
            Branch(engine, prompt, SamplingParams(**fields))
    branch = Branch(engine, prompt, SamplingParams(max_tokens=40))
    with pytest.raises(InputError, match="does not open the thinking"):
        Branch(engine, [5, 6, 7], SamplingParams())
    for ids in ([10**9], ["a"], [5] * 40):
        with pytest.raises(InputError, match="force of"):
            branch.force(ids)
    assert branch.token_ids == () and branch.ledger.generated == 0
    for count, at in ((0, None), (1, 5), (1, -1), (1.0, None), (1, True)):
        with pytest.raises(InputError, match="fork of"):
            branch.fork(count, at)
