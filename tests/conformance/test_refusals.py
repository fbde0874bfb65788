"""Section 2: what is refused when the request is made, naming the field, and what is not."""

import math

import pytest

from engine import InputError, SamplingParams
from tests.conformance.lab import ENDLESS, STORY

INTEGERS = (
    "thinking_token_budget",
    "min_thinking_tokens",
    "thinking_extensions",
    "thinking_grace_tokens",
    "min_answer_tokens",
    "answer_reserve_tokens",
)
SET = {
    "thinking_token_budget": 5,
    "min_thinking_tokens": 1,
    "thinking_extensions": 1,
    "thinking_extension_str": "Hmm",
    "thinking_end_str": "<|im_start|>answer",
    "thinking_grace_tokens": 1,
    "thinking_budget_action": "truncate",
    "thinking_eos_policy": "stop",
    "min_answer_tokens": 2,
    "answer_reserve_tokens": 2,
}


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [-1, math.inf, -math.inf, math.nan, 1.5, "3", True, 2**40])
def test_refused_numbers(field, value):
    with pytest.raises(InputError, match=field):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
)
@pytest.mark.parametrize("value", [math.inf, math.nan, 10**400, "1", None])
def test_refused_reals(field, value):
    with pytest.raises(InputError, match=field):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "params",
    [
        {"thinking_budget_action": "cut"},
        {"thinking_eos_policy": None},
        {"thinking_extension_str": None},
        {"thinking_end_str": 3},
    ],
)
def test_refused_words(params):
    with pytest.raises(InputError, match=next(iter(params))):
        SamplingParams(**params)


def test_refused_minimum_above_the_budget():
    with pytest.raises(InputError, match=r"min_thinking_tokens 5 .*thinking_token_budget 4"):
        SamplingParams(min_thinking_tokens=5, thinking_token_budget=4)
    assert SamplingParams(min_thinking_tokens=5, thinking_token_budget=5).min_thinking_tokens == 5


@pytest.mark.parametrize("field", SET)
def test_refused_under_format_none(labs, field):
    lab = labs(STORY)
    with pytest.raises(InputError, match=field):
        lab.request(format="none", **{field: SET[field]})
    with pytest.raises(InputError, match=field):
        lab.engine.submit("Hi", lab.params("none", **{field: SET[field]}))


def test_refused_end_strings(labs):
    lab = labs(STORY)
    for string in (
        "",
        "answer",
        "Wait",
        "<|im_start|>answer<|im_start|>",
        "<|im_start|>answer<|im_end|>",
        "a<|im_start|>b<|im_start|>answer",
        "<|im_start|>answer<|endoftext|>",
    ):
        with pytest.raises(InputError, match="thinking_end_str"):
            lab.request(thinking_end_str=string)


def test_refused_extensions_with_a_several_token_trigger(labs):
    with pytest.raises(InputError, match="thinking_extensions"):
        labs(STORY).request(format="step", thinking_extensions=1)


def test_refused_where_max_tokens_cannot_hold_the_forced_end(labs):
    lab = labs(ENDLESS)
    assert lab.ask(max_tokens=8).finish_reason == "length"  # F + R: a newline, six of budget_end, one of answer
    with pytest.raises(InputError, match=r"max_tokens is 7 .*8"):
        lab.request(max_tokens=7)
    with pytest.raises(InputError, match=r"max_tokens is 50 "):
        lab.request(max_tokens=50, answer_reserve_tokens=44)
    with pytest.raises(InputError, match="max_tokens"):
        lab.request(max_tokens=30, thinking_end_str="<|im_start|>answer" + "Wait" * 28)
    assert lab.ask(max_tokens=3, thinking_budget_action="truncate").forced == []  # truncate reserves nothing


def test_refused_where_the_context_cannot_hold_the_forced_end(labs):
    lab = labs(ENDLESS, max_model_len=32)
    prompt = lab.ids("!" * 22 + "<|im_start|>think")
    assert len(lab.ask(prompt).token_ids) == 8
    with pytest.raises(InputError, match=r"25 .*32"):
        lab.request([33, *prompt])
    with pytest.raises(InputError, match="32"):
        lab.request(lab.ids("!" * 40), format="none")


def test_refused_unknown_names():
    with pytest.raises(InputError, match="thinking_budget"):
        SamplingParams.from_dict({"thinking_budget": 5})


def test_a_refusal_leaves_the_engine_as_it_was(labs):
    lab = labs(STORY)
    steps = lab.engine.stats()["steps"]
    for params in ({"max_tokens": 2}, {"thinking_extension_str": "<|im_start|>", "thinking_extensions": 1}):
        with pytest.raises(InputError):
            lab.engine.generate([lab.ids("<|im_start|>think")] * 3, [lab.params(), lab.params(), lab.params(**params)])
    assert lab.engine.stats()["steps"] == steps  # all are checked before the first one runs
    assert lab.show(lab.ask()) == "abcde<|im_start|>{answer}ABC<|im_end|>"


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    "params",
    [
        *(
            {name: LARGEST}
            for name in (*INTEGERS, "max_tokens", "min_tokens", "top_k", "logprobs")
            if "min_thinking" not in name
        ),
        {"loop_ngram": LARGEST, "loop_count": LARGEST},
        {"thinking_grace_tokens": LARGEST, "thinking_token_budget": 3},
        {"min_thinking_tokens": LARGEST},
    ],
)
def test_the_largest_numbers_are_refused_or_served(labs, params):
    """Whatever SamplingParams lets through must not overflow on the device: the engine serves on."""
    lab = labs(STORY)
    for prompt in ("(", "<|im_start|>think", "<|im_start|>thinka<|im_start|>"):
        try:
            done = lab.request(prompt, **params).outputs[0]
        except InputError as refusal:
            assert next(iter(params)) in str(refusal) or "max_tokens" in str(refusal)
            continue
        assert done.finish_reason in ("stop", "length")
    assert lab.show(lab.ask()) == "abcde<|im_start|>{answer}ABC<|im_end|>"


def test_the_largest_budget_that_a_running_request_can_be_given(new_lab):
    lab = new_lab(STORY)
    handle = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params())
    handle.set_budget(LARGEST)
    with pytest.raises(InputError, match=str(LARGEST + 1)):
        handle.set_budget(LARGEST + 1)
    assert handle.result().outputs[0].thinking.stop_reason == "natural"
