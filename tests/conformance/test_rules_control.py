"""Rule 34: what a running request can be told, at any moment and in any state."""

import time

import pytest

from engine import InputError
from tests.conformance.lab import ENDLESS, STORY, path

CLOSED = "<|im_start|>answer\nFinal Answer:"
LONG = {"max_model_len": 2048, "kv_cache_tokens": 4096}
PATIENT = {**path("think", "a", "b", "a"), **{k: v for k, v in STORY.items() if k not in ("a", "b", "think")}}


def tell(lab, action, prompt="<|im_start|>think", after=3, **params):
    """Submit, wait until `after` tokens have come, act; the completion."""
    handle = lab.engine.submit(lab.ids(prompt), lab.params(**params))
    seen = 0
    for delta in handle:
        seen += len(delta.token_ids)
        if seen >= after:
            action(handle)
            break
    return handle.result(timeout=60).outputs[0]


@pytest.mark.parametrize("overlap", [False, True])
def test_rule_34_end_thinking_closes_like_a_budget(labs, overlap):
    lab = labs(ENDLESS, overlap=overlap, **LONG)
    done = tell(lab, lambda handle: handle.end_thinking())
    cut = done.forced[0]
    assert done.thinking.stop_reason == "client" and 3 <= done.thinking.tokens == cut < 2000
    assert lab.text(done.token_ids[cut:]) == f"\n{CLOSED}XY<|im_end|>"
    assert done.forced == list(range(cut, cut + 7))


def test_rule_34_end_thinking_goes_before_minimum_grace_and_extensions(labs):
    lab = labs(ENDLESS, **LONG)
    done = tell(lab, lambda h: h.end_thinking(), min_thinking_tokens=1800, thinking_extensions=3)
    assert (done.thinking.stop_reason, done.thinking.extensions) == ("client", 0) and done.thinking.tokens < 1800
    done = tell(lab, lambda h: h.end_thinking(), thinking_end_str="<|im_start|>answer!", thinking_grace_tokens=99)
    assert "\n<|im_start|>answer!" in done.text and done.thinking.stop_reason == "client"


def test_rule_34_end_thinking_under_truncate(labs):
    done = tell(labs(ENDLESS, **LONG), lambda h: h.end_thinking(), thinking_budget_action="truncate")
    assert (done.finish_reason, done.forced) == ("length", []) and done.thinking.stop_reason in ("client", "truncated")


def test_rule_34_extend_gives_one_more_extension(labs):
    script = {**ENDLESS, **{c: [f"{chr(ord(c) + 1)}", "~", "^"] for c in "abc"}, "z": ["a", "~", "^"]}
    lab = labs({**script, "y": ["<|im_start|>", "z", "~"]}, **LONG)
    plain = lab.request(min_thinking_tokens=700).outputs[0]
    assert (plain.thinking.extensions, plain.thinking.stop_reason) == (0, "natural")

    def twice(handle):
        handle.extend()
        handle.extend()

    done = tell(lab, twice, min_thinking_tokens=700)
    assert (done.thinking.extensions, done.thinking.stop_reason) == (2, "natural")
    assert done.text.count("Wait") == 2 and done.thinking.forced_tokens == plain.thinking.forced_tokens + 2


def test_rule_34_extend_is_refused_where_it_cannot_be(labs):
    lab = labs(ENDLESS, **LONG)
    for format in ("none", "step"):
        handle = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(format))
        with pytest.raises(InputError):
            handle.extend()
        handle.abort()
        handle.result()


def test_rule_34_set_budget(labs):
    lab = labs(ENDLESS, **LONG)
    done = tell(lab, lambda h: h.set_budget(900), thinking_token_budget=1500)
    assert (done.thinking.tokens, done.thinking.stop_reason) == (900, "budget")
    done = tell(lab, lambda h: h.set_budget(900), thinking_token_budget=700)  # raised in time
    assert (done.thinking.tokens, done.thinking.stop_reason) == (900, "budget")
    done = tell(lab, lambda h: h.set_budget(0))  # below what was thought already
    assert done.thinking.stop_reason == "budget" and 3 <= done.thinking.tokens < 2000
    done = tell(lab, lambda h: h.set_budget(None), thinking_token_budget=700)
    assert (done.thinking.stop_reason, done.finish_reason) == ("context", "length")
    with pytest.raises(InputError, match="-1"):
        tell(lab, lambda h: h.set_budget(-1), max_tokens=20)


def test_rule_34_for_a_request_that_waits_in_the_queue(labs):
    lab = labs(ENDLESS, max_num_seqs=1, **LONG)
    first = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(thinking_token_budget=600))
    second = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params())
    third = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(thinking_token_budget=9))
    second.set_budget(4)
    third.end_thinking()
    assert first.result().outputs[0].thinking.tokens == 600
    assert lab.show(second.result().outputs[0]) == f"abcd{{\n{CLOSED}}}XY<|im_end|>"
    done = third.result().outputs[0]
    assert (lab.show(done), done.thinking.stop_reason) == (f"{{\n{CLOSED}}}XY<|im_end|>", "client")


def test_rule_34_survives_preemption(labs):
    lab = labs(ENDLESS, max_model_len=512, kv_cache_tokens=576, page_size=8, max_num_batched_tokens=64)
    handles = [lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(max_tokens=300 + i)) for i in range(8)]
    for handle in handles:
        handle.set_budget(180)
    for handle in handles:
        done = handle.result().outputs[0]
        assert (done.thinking.tokens, done.thinking.stop_reason) == (180, "budget")
    assert lab.engine.stats()["preemptions"] > 0


def test_rule_34_a_race_with_the_end_does_nothing(labs):
    lab = labs(STORY)
    for params in ({}, {"thinking_token_budget": 2}, {"thinking_extensions": 1}):
        handle = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(**params))
        want = handle.result().outputs[0].token_ids
        for late in (handle.end_thinking, handle.extend, handle.abort, lambda h=handle: h.set_budget(1)):
            late()
        time.sleep(0.01)
        assert handle.result().outputs[0].token_ids == want == lab.ask(**params).token_ids


def test_rule_34_in_the_answer_it_changes_nothing(labs):
    script = {**ENDLESS, ":": ["A", "B"], "C": ["A", "B"], "A": ["B", "C"], "B": ["C", "A"]}
    lab = labs(script, **LONG)
    done = tell(lab, lambda h: (h.end_thinking(), h.set_budget(0)), after=12, thinking_token_budget=2, max_tokens=1200)
    assert len(done.token_ids) == 1200 and done.thinking.stop_reason == "budget" and len(done.forced) == 7


def test_rule_34_the_model_may_still_end_by_itself(labs):
    lab = labs(PATIENT, **LONG)
    done = tell(lab, lambda h: h.set_budget(600))
    assert (done.thinking.tokens, done.thinking.stop_reason) == (600, "budget")
