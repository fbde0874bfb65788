"""Rules 10-14: the minimum, the extensions and the loop guard."""

import pytest

from engine import InputError
from tests.conformance.lab import ANSWERS, ENDLESS, STORY, path
from tests.conformance.scripted import END_OF_TEXT, IM_END, IM_START

CLOSED = "<|im_start|>answer\nFinal Answer:"


def test_rule_10_the_minimum_masks_every_trigger_and_every_eos(labs):
    lab = labs({**STORY, "e": [IM_START, IM_END, END_OF_TEXT, "f"]})
    done = lab.ask(min_thinking_tokens=6)
    assert lab.show(done).startswith("abcdef") and done.forced == [len(done.reasoning) + 1]


def test_rule_10_no_draw_is_thrown_away(labs):
    """Masked tokens are not committed, not counted and not forced: the response is what a model without them writes."""
    lab = labs(STORY)
    done = lab.ask(min_thinking_tokens=9)
    assert (done.thinking.forced_tokens, done.thinking.extensions) == (1, 0)
    other = labs({**STORY, "e": ["f", "g", "~"], "h": ["i", "j", "~"]})
    assert other.ask().token_ids == done.token_ids


def test_rule_10_penalties_come_first_and_masks_after(labs):
    """A presence penalty takes the second choice out, so the masked draw is the third; a bias decides likewise."""
    lab = labs({**STORY, "e": [IM_START, "b", "g"]})
    assert lab.text(lab.request(min_thinking_tokens=6).outputs[0].token_ids).startswith("abcdeb")
    done = lab.request(min_thinking_tokens=6, presence_penalty=5.0).outputs[0]
    assert lab.text(done.token_ids).startswith("abcdeg")
    done = lab.request(min_thinking_tokens=6, logit_bias={lab.vocabulary["g"]: 5.0}).outputs[0]
    assert lab.text(done.token_ids).startswith("abcdeg")


def test_rule_10_penalties_see_forced_tokens(labs):
    """What was forced is history like anything else: `Wait`'s p is penalised once p was written by the engine."""
    lab = labs({**STORY, "Wait": ["p", "x", "y"], "x": ["z", "y", "~"], "z": ["y", "~", "^"]})
    plain = lab.request(thinking_extensions=1, thinking_extension_str="pWait", max_tokens=40).outputs[0]
    assert "pWaitp" in plain.text
    done = lab.request(thinking_extensions=1, thinking_extension_str="pWait", presence_penalty=5.0, max_tokens=40)
    assert "pWaitx" in done.outputs[0].text


@pytest.mark.parametrize("after", [IM_START, IM_END, END_OF_TEXT])
def test_rule_11_a_sampled_token_follows_every_extension(labs, after):
    lab = labs({**STORY, "Wait": [after, "p", "x"], "p": [after, "q", "x"]})
    done = lab.ask(thinking_extensions=3)
    written = {IM_START: "<|im_start|>{answer}"}.get(after, "{<|im_start|>answer}")
    assert lab.show(done) == f"abcde{{Wait}}p{{Wait}}p{{Wait}}p{written}ABC<|im_end|>"
    assert (done.thinking.extensions, done.thinking.tokens) == (3, 11)


def test_rule_11_the_draw_after_an_empty_extension_is_free(labs):
    lab = labs({**STORY, "f": [IM_START, "x", "y"]})
    done = lab.ask(thinking_extensions=1, thinking_extension_str="")
    assert lab.show(done) == "abcdef<|im_start|>{answer}ABC<|im_end|>"


def test_rule_12_no_extension_that_would_fill_the_budget(labs):
    lab = labs(STORY)
    for budget, extensions in ((7, 1), (6, 0), (5, 0)):  # T is 5 and Wait is 1: 5 + 1 < B
        done = lab.ask(thinking_token_budget=budget, thinking_extensions=1)
        assert done.thinking.extensions == extensions
    assert lab.show(lab.ask(thinking_token_budget=6, thinking_extensions=1)) == "abcde<|im_start|>{answer}ABC<|im_end|>"
    done = lab.ask(thinking_token_budget=7, thinking_extensions=1)
    assert lab.show(done) == f"abcde{{Wait}}p{{\n{CLOSED}}}XY<|im_end|>"


def test_rule_12_no_extension_into_the_reserve(labs):
    lab = labs(STORY)
    for room, extensions in ((10, 1), (9, 0)):  # F + R + len(Wait) is 9
        done = lab.ask(max_tokens=5 + room, thinking_extensions=1)
        assert done.thinking.extensions == extensions
    assert done.thinking.stop_reason == "natural"
    small = labs(STORY, max_model_len=32)
    for prompt, extensions in ((15, 1), (16, 0)):
        done = small.ask([*small.ids("!" * prompt), *small.ids("<|im_start|>think")], thinking_extensions=1)
        assert done.thinking.extensions == extensions


@pytest.mark.parametrize(
    "string, shown",
    [
        ("Wait", "abcde{Wait}pq"),
        ("Hmm Wait", "abcde{Hmm Wait}pq"),
        ("\nWait", "abcde{\nWait}pq"),
        ("Wait" * 9, "abcde{" + "Wait" * 9 + "}pq"),
        ("", "abcdefgh"),
        ("é", "abcde{é}"),
    ],
)
def test_rule_13_extension_strings(labs, string, shown):
    lab = labs({**STORY, b"\xa9": ["q", "~", "^"]})
    done = lab.ask(thinking_extensions=1, thinking_extension_str=string)
    assert lab.show(done).replace("{�}{�}", "{é}").replace("{��}", "{é}").startswith(shown)
    assert done.thinking.extensions == 1


def test_rule_13_different_strings_in_one_batch(labs):
    lab = labs(STORY)
    strings = ["Wait", "Hmm Wait", "", "WaitWaitWait", "Hmm so Wait", "\nWait"]
    params = [lab.params(thinking_extensions=i % 3 + 1, thinking_extension_str=s) for i, s in enumerate(strings)]
    together = lab.engine.generate([lab.ids("<|im_start|>think")] * len(strings), params)
    for i, (string, done) in enumerate(zip(strings, together, strict=True)):
        alone = lab.ask(thinking_extensions=i % 3 + 1, thinking_extension_str=string)
        assert (done.outputs[0].token_ids, done.outputs[0].forced) == (alone.token_ids, alone.forced)


@pytest.mark.parametrize(
    "string",
    [
        "<|im_start|>",
        "Wait<|im_start|>",
        "a<|im_end|>",
        "<|endoftext|>",
        "<|im_start|>answer",
    ],
)
def test_rule_13_an_extension_that_holds_a_trigger_is_refused(labs, string):
    with pytest.raises(InputError, match="thinking_extension_str"):
        labs(STORY).request(thinking_extensions=1, thinking_extension_str=string)


@pytest.mark.parametrize("ngram, count, thought", [(1, 3, 4 + 2), (2, 2, None), (1, 9, 4 + 8)])
def test_rule_14_the_loop_guard(labs, ngram, count, thought):
    script = {**path("think", "a", "b", "c", "x"), "x": ["x", "~", "^"], "\n": ["n", "~", "^"], **ANSWERS}
    lab = labs(script)
    done = lab.request(loop_ngram=ngram, loop_count=count).outputs[0]
    assert done.thinking.stop_reason == "loop" and done.reasoning.startswith("abcx")
    assert lab.text(done.token_ids).endswith(f"x\n{CLOSED}XY<|im_end|>")
    assert done.thinking.tokens == len(done.reasoning) <= 3 + ngram * count + ngram
    if thought is not None:
        assert done.thinking.tokens == thought


def test_rule_14_a_loop_of_several_tokens_and_none_where_nothing_repeats(labs):
    lab = labs(ENDLESS)
    done = lab.request(loop_ngram=26, loop_count=2).outputs[0]
    assert (done.thinking.stop_reason, done.thinking.tokens) == ("loop", 52)
    done = lab.request(loop_ngram=5, loop_count=2, thinking_token_budget=100).outputs[0]
    assert (done.thinking.stop_reason, done.thinking.tokens) == ("budget", 100)
    done = lab.request(loop_ngram=1, loop_count=2, max_tokens=40).outputs[0]  # off in the answer
    assert done.thinking.stop_reason == "max_tokens"


def test_rule_14_off_by_default(labs):
    lab = labs({"think": ["x", "~", "^"], "x": ["x", "~", "^"], **ANSWERS})
    assert lab.ask(thinking_token_budget=90).thinking.stop_reason == "budget"
