"""Rules 19-22: every sampling path, the noise, log-probabilities and samples of one request."""

import itertools
import math

import pytest
import torch

from engine.request import TokenKind
from tests.conformance.lab import ANSWERS, ENDLESS, STORY
from tests.conformance.scripted import IM_END, IM_START

CERTAIN = {"best": 900.0, "step": 300.0}
"""The first choice has all of the probability, and the second all of the rest: sampled is greedy."""
SOFT = {"best": 12.0, "step": 0.2}
WILD = {
    **ENDLESS,
    **{c: [IM_START, IM_END, "a", "e", "i", "o", "\n"] for c in "bdfhjlnprtvxz"},
    **{c: ["b", "d", "f", "h", "j", "l", IM_START] for c in "aceikmoqsuwyg"},
    "Wait": ["a", IM_START, "e", "i"],
}
"""With SOFT: a random walk over letters which draws the trigger and EOS often."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WALK = {
    **ANSWERS,
    **{c: list((LETTERS * 2)[3 * i : 3 * i + 7]) for i, c in enumerate(["think", *LETTERS[:8], "\n"])},
    **{c: [*LETTERS[:8], "\n"] for c in LETTERS[8:]},
}
"""With SOFT: a random walk that never ends by itself."""

PATHS = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "seeded": {"temperature": 0.8, "seed": 11},
    "top_k": {"temperature": 1.0, "top_k": 3, "seed": 1},
    "top_p": {"temperature": 1.0, "top_p": 0.9},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "logprobs": {"logprobs": 3},
    "sampled logprobs": {"temperature": 1.0, "logprobs": 0, "top_k": 5, "top_p": 0.8},
    "penalties": {"repetition_penalty": 1.01, "frequency_penalty": 0.01, "temperature": 1.0},
    "bias": {"logit_bias": {98: 0.5}, "temperature": 1.0},
    "large seed": {"temperature": 1.0, "seed": 2**63 - 1},
}
KNOBS = [
    {"thinking_token_budget": 3},
    {"thinking_extensions": 2},
    {"thinking_extensions": 2, "thinking_extension_str": ""},
    {"min_thinking_tokens": 7},
    {"thinking_token_budget": 7, "thinking_extensions": 1, "thinking_grace_tokens": 4},
    {},
]


@pytest.mark.parametrize("name", PATHS)
def test_rule_19_forcing_works_on_every_path(labs, name):
    lab = labs(STORY, CERTAIN)
    for done in lab.ask_all([{**PATHS[name], **knobs} for knobs in KNOBS]):
        assert done.forced


def test_rule_19_all_paths_in_one_batch(labs):
    lab = labs(STORY, CERTAIN)
    lab.ask_all([{**path, **knobs} for path in PATHS.values() for knobs in KNOBS])


@pytest.mark.parametrize("name", ["seeded", "top_k", "sampled logprobs", "penalties"])
def test_rule_19_the_budget_holds_for_whatever_is_drawn(labs, name):
    lab = labs(WILD, SOFT)
    for seed in range(12):
        knobs = {"thinking_token_budget": 9, "thinking_extensions": 3, **PATHS[name], "seed": seed, "max_tokens": 80}
        done = lab.request(**knobs).outputs[0]
        shown = lab.show(done)
        assert done.thinking.tokens <= 9 and done.thinking.stop_reason in ("natural", "eos", "budget")
        assert shown.count("<|im_start|>answer") + shown.count("<|im_start|>{answer}") == 1
        assert (done.thinking.stop_reason == "budget") == ("answer\nFinal Answer:}" in shown)
        assert (done.thinking.tokens == 9) or done.thinking.stop_reason != "budget"


def test_rule_20_the_prefix_property(labs):
    lab = labs(WALK, SOFT)
    for seed in range(6):
        runs = [
            lab.request(thinking_token_budget=budget, temperature=1.0, seed=seed, max_tokens=90).outputs[0]
            for budget in (3, 10, 11, 40)
        ]
        assert all(r.thinking.stop_reason == "budget" for r in runs)
        for short, long in itertools.pairwise(runs):
            cut = short.forced[0] if short.forced else len(short.token_ids)
            assert short.token_ids[:cut] == long.token_ids[:cut]


def test_rule_20_with_filters_and_another_sample_index(labs):
    lab = labs(WILD, SOFT)
    knobs = {"temperature": 1.2, "top_p": 0.95, "top_k": 20, "seed": 5, "n": 3, "max_tokens": 80}
    short = lab.request(thinking_token_budget=4, **knobs).outputs
    long = lab.request(thinking_token_budget=20, **knobs).outputs
    for a, b in zip(short, long, strict=True):
        cut = a.forced[0] if a.forced else len(a.token_ids)
        assert a.token_ids[:cut] == b.token_ids[:cut]
    assert len({tuple(c.token_ids) for c in long}) == 3


def test_rule_20_seeds_are_repeatable_and_differ(labs):
    lab = labs(WILD, SOFT)
    knobs = {"temperature": 1.0, "thinking_token_budget": 30, "thinking_extensions": 2, "max_tokens": 80}
    runs = [lab.request(seed=seed, **knobs).outputs[0].token_ids for seed in (1, 2, 1, 2)]
    assert runs[0] == runs[2] and runs[1] == runs[3] and runs[0] != runs[1]


def test_rule_20_neither_company_nor_preemption_changes_the_noise(labs):
    roomy = labs(WILD, SOFT)
    tight = labs(WILD, SOFT, kv_cache_tokens=160, max_num_batched_tokens=16, page_size=8)
    knobs = {"temperature": 1.0, "thinking_token_budget": 40, "thinking_extensions": 2, "max_tokens": 80}
    params = [roomy.params(seed=seed, **knobs) for seed in range(16)]
    prompts = [roomy.ids("!" * (i % 7) + "<|im_start|>think") for i in range(16)]
    alone = [roomy.engine.generate([p], [q])[0] for p, q in zip(prompts, params, strict=True)]
    together, squeezed = roomy.engine.generate(prompts, params), tight.engine.generate(prompts, params)
    for a, b, c in zip(alone, together, squeezed, strict=True):
        assert a.outputs[0].token_ids == b.outputs[0].token_ids == c.outputs[0].token_ids
    assert tight.engine.stats()["preemptions"] > 0


def own_logprob(lab, current: int, token: int) -> float:
    """log softmax of the scripted logits after `current`, for the tokens that exist."""
    logits = torch.zeros(lab.vocabulary.size, dtype=torch.float64)
    for rank, choice in enumerate(lab.vocabulary.script[current]):
        logits[choice] = 24.0 - 2.0 * rank
    return float(torch.log_softmax(logits, 0)[token])


@pytest.mark.parametrize("extra", [{}, {"temperature": 0.5, "seed": 3, "top_k": 2}, {"presence_penalty": 0.1}])
def test_rule_21_a_forced_position_reports_the_models_own_logprob(labs, extra):
    lab = labs(STORY)
    output = lab.request(thinking_token_budget=8, thinking_extensions=1, logprobs=2, max_tokens=60, **extra)
    done = output.outputs[0]
    assert len(done.logprobs) == len(done.token_ids) and done.forced
    total = 0.0
    for at, entry in enumerate(done.logprobs):
        current = ([*output.prompt_token_ids, *done.token_ids])[len(output.prompt_token_ids) + at - 1]
        assert entry.token_id == done.token_ids[at]
        assert math.isclose(entry.logprob, own_logprob(lab, current, entry.token_id), abs_tol=1e-3)
        assert entry.forced == (at in done.forced)
        assert [t for t, _ in entry.top] == lab.vocabulary.script[current][:2]
        total += 0.0 if entry.forced else entry.logprob
    assert min(entry.logprob for entry in done.logprobs if entry.forced) < -20  # the model would not have said that
    assert math.isclose(done.cumulative_logprob, total, abs_tol=1e-3)


def test_rule_22_samples_copy_the_state(labs):
    lab = labs(STORY)
    output = lab.request("<|im_start|>thinkab", n=5, thinking_token_budget=7, thinking_extensions=2)
    alone = lab.ask("<|im_start|>thinkab", thinking_token_budget=7, thinking_extensions=2)
    assert [c.index for c in output.outputs] == [0, 1, 2, 3, 4]
    for done in output.outputs:
        assert (done.token_ids, done.forced, done.thinking) == (alone.token_ids, alone.forced, alone.thinking)
    assert output.usage.reasoning_tokens == 5 * (alone.thinking.tokens - 2)
    assert output.usage.forced_tokens == 5 * len(alone.forced)


@pytest.mark.parametrize("slots", [2, 16])
def test_rule_22_sampled_forks_stand_alone(labs, slots):
    lab = labs(WILD, SOFT, max_num_seqs=slots)
    knobs = {"temperature": 1.0, "seed": 9, "thinking_token_budget": 12, "thinking_extensions": 2, "max_tokens": 60}
    many = lab.request(n=6, **knobs).outputs
    assert len({tuple(c.token_ids) for c in many}) > 3
    assert many[0].token_ids == lab.request(n=1, **knobs).outputs[0].token_ids
    for done in many:
        assert done.thinking.tokens <= 12 and lab.text(done.token_ids).count("answer") >= 1


def test_rule_22_forks_of_a_prompt_that_is_being_closed(labs):
    lab = labs(STORY)
    for done in lab.request("<|im_start|>thinkab<|im_start|>", n=3).outputs:
        assert lab.show(done) == "{answer}ABC<|im_end|>"


def test_kinds_are_stable_under_sampling(labs):
    lab = labs({**WILD, **ANSWERS}, SOFT)
    kinds = [
        d.kind for d in lab.engine.stream(lab.ids("<|im_start|>think"), lab.params(temperature=1.0, seed=4)) if d.text
    ]
    assert kinds == sorted(kinds, key=lambda k: (k is not TokenKind.REASONING, k is not TokenKind.DELIMITER))
