"""Rules 15-18: what never stops a forced token, where stops apply, lengths, and the answer's minimum."""

import pytest

from tests.conformance.lab import ANSWERS, ENDLESS, STORY, path
from tests.conformance.scripted import END_OF_TEXT, IM_END, IM_START

CLOSED = "<|im_start|>answer\nFinal Answer:"
FORCED = f"ab{{\n{CLOSED}}}"


def test_rule_15_ignore_eos_and_min_tokens(labs):
    lab = labs(ENDLESS)
    assert lab.show(lab.ask(thinking_token_budget=2, min_tokens=30, max_tokens=20)).startswith(FORCED)
    assert lab.show(lab.ask(thinking_token_budget=2, ignore_eos=True, max_tokens=20)).startswith(FORCED)
    lab = labs({**STORY, "e": [IM_END, "f", "g"]})
    done = lab.ask(ignore_eos=True, max_tokens=30)  # an ordinary token: neither a trigger nor an end
    assert IM_END in done.reasoning and done.thinking.stop_reason == "max_tokens"


def test_rule_15_bans_biases_and_allowed_tokens(labs):
    lab = labs(ENDLESS)
    written = tuple(lab.ids(f"\n{CLOSED}"))
    done = lab.ask(thinking_token_budget=2, banned_token_ids=written)
    assert lab.show(done).startswith(FORCED)
    done = lab.request(thinking_token_budget=2, logit_bias=dict.fromkeys(written, -100.0)).outputs[0]
    assert lab.show(done).startswith(FORCED)
    done = lab.ask(thinking_token_budget=2, allowed_token_ids=tuple(lab.ids("abXY<|im_end|>")))
    assert lab.show(done) == FORCED + "XY<|im_end|>"
    lab = labs(STORY)
    done = lab.ask(thinking_extensions=1, banned_token_ids=(lab.vocabulary["Wait"], lab.vocabulary["answer"]))
    assert lab.show(done) == "abcde{Wait}pq<|im_start|>{answer}ABC<|im_end|>"


def test_rule_15_penalties(labs):
    lab = labs(ENDLESS)
    done = lab.request(thinking_token_budget=2, repetition_penalty=3.0, presence_penalty=9.0).outputs[0]
    assert lab.show(done).startswith(FORCED)


def test_rule_15_nan_logits_never_stop_a_forced_token(labs):
    lab = labs(ENDLESS, {"nan_after": ("\n", "answer", "Final", " Answer")})
    assert lab.show(lab.ask(thinking_token_budget=2)) == FORCED + "XY<|im_end|>"
    sampled = lab.request(thinking_token_budget=2, temperature=0.7, top_p=0.9, seed=1).outputs[0]
    assert lab.show(sampled).startswith(FORCED)


def test_rule_15_nan_logits_where_a_token_must_be_sampled_are_an_error_of_that_request_alone(labs):
    lab = labs(ENDLESS, {"nan_after": ("!",)})
    bad, good = lab.engine.generate(
        [lab.ids("<|im_start|>think!"), lab.ids("<|im_start|>think")], lab.params(thinking_token_budget=2)
    )
    assert bad.outputs[0].finish_reason == "error" and bad.outputs[0].error
    assert lab.show(good.outputs[0]) == FORCED + "XY<|im_end|>"


def test_ids_past_the_tokenizer_do_not_exist(labs):
    lab = labs(STORY, {"phantom": True})
    assert lab.show(lab.ask(thinking_extensions=1)) == "abcde{Wait}pq<|im_start|>{answer}ABC<|im_end|>"
    done = lab.request(temperature=5.0, seed=3, max_tokens=60).outputs[0]
    assert max(done.token_ids) < lab.vocabulary.size


def test_rule_16_stop_strings_apply_to_plain_and_answer_only(labs):
    lab = labs(STORY)
    done = lab.request(stop=("cd",)).outputs[0]
    assert lab.text(done.token_ids) == "abcde<|im_start|>answerABC<|im_end|>"
    done = lab.request(stop=("BC",)).outputs[0]
    assert (done.finish_reason, done.answer, done.text) == ("stop", "A", "abcde<|im_start|>answerA")
    done = lab.request("a", "none", stop=("cd",)).outputs[0]
    assert (done.finish_reason, done.text) == ("stop", "b")


def test_rule_16_stop_ids_apply_to_plain_and_answer_only(labs):
    lab = labs({**STORY, "B": [IM_START, "~", "^"]})
    ids = lab.vocabulary.tokens("c", IM_START)
    done = lab.ask(stop_token_ids=tuple(ids))  # a stop id equal to the trigger: in thinking it is the trigger
    assert lab.show(done) == "abcde<|im_start|>{answer}AB<|im_start|>"
    assert done.finish_reason == "stop"
    done = lab.ask("a", stop_token_ids=tuple(ids))
    assert lab.show(done) == "bc"


def test_rule_16_not_matched_across_end_nor_in_forced_text(labs):
    lab = labs(ENDLESS)
    for stop in ("b\n", "answer", "Final", "Answer:", ":X", "\nFinal", "er:"):
        done = lab.request(thinking_token_budget=2, stop=(stop,)).outputs[0]
        assert lab.show(done) == FORCED + "XY<|im_end|>", stop
    for stop in (("answer",), ("Final",), ("\n",), (":",)):
        done = lab.ask(thinking_token_budget=2, stop_token_ids=tuple(lab.vocabulary.tokens(*stop)))
        assert lab.show(done) == FORCED + "XY<|im_end|>", stop
    lab = labs(STORY)
    assert lab.text(lab.request(stop=("eA", "answerA", "rA")).outputs[0].token_ids).endswith("ABC<|im_end|>")


@pytest.mark.parametrize("reserve", [0, 1, 5])
def test_rule_17_max_tokens_never_runs_out_inside_a_forced_string(labs, reserve):
    lab = labs(ENDLESS)
    limits = range(7 + reserve, 24)
    together = lab.ask_all([{"max_tokens": most, "answer_reserve_tokens": reserve} for most in limits])
    for most, done in zip(limits, together, strict=True):
        assert len(done.token_ids) <= most and f"\n{CLOSED}" in done.text
        assert len(done.answer) - len("Final Answer:") >= min(reserve, 2)


def test_rule_17_the_context_never_runs_out_inside_a_forced_string(labs):
    lab = labs(ENDLESS, max_model_len=32)
    lengths = range(1, 32 - 2 - 8)
    together = lab.ask_all([{"prompt": "!" * length + "<|im_start|>think"} for length in lengths])
    for length, done in zip(lengths, together, strict=True):
        assert length + 2 + len(done.token_ids) <= 32 and f"\n{CLOSED}" in done.text
        assert done.thinking.stop_reason == "context"


def test_rule_17_the_pool_counts_as_context(labs):
    lab = labs(ENDLESS, max_model_len=256, kv_cache_tokens=64, page_size=16)
    done = lab.request().outputs[0]
    assert (done.thinking.stop_reason, done.finish_reason) == ("context", "length")
    assert 2 + done.thinking.tokens + 8 == 2 + len(done.token_ids) == 64


def test_rule_17_with_extensions_and_long_end_strings(labs):
    lab = labs(STORY)
    long = "Wait" * 9 + "<|im_start|>answer" + "Hmm" * 5
    fixed = {"thinking_extensions": 3, "thinking_extension_str": "WaitHmm", "thinking_end_str": long}
    for done in lab.ask_all([{"max_tokens": most, **fixed} for most in range(18, 50)]):
        assert "<|im_start|>answer" in done.text


def test_rule_17_max_tokens_above_the_context_is_an_upper_bound(labs):
    lab = labs(ENDLESS, max_model_len=32)
    done = lab.ask(max_tokens=10_000)
    assert (done.thinking.stop_reason, done.finish_reason) == ("context", "length")


@pytest.mark.parametrize("least, answer", [(0, ""), (1, "XY"), (2, "XY"), (3, "XYZXY")])
def test_rule_18_min_answer_tokens_counts_sampled_tokens(labs, least, answer):
    lab = labs({**ENDLESS, ":": [IM_END, "X", "Y"]})
    done = lab.ask(thinking_token_budget=2, min_answer_tokens=least)
    assert done.answer == f"Final Answer:{answer}"  # the forced prefix is five tokens of answer and is not counted


def test_rule_18_after_a_natural_end_and_for_every_eos(labs):
    lab = labs({**STORY, "answer": [END_OF_TEXT, IM_END, "A"], "A": [IM_END, END_OF_TEXT, "B"]})
    assert lab.show(lab.ask()) == "abcde<|im_start|>{answer}A<|im_end|>"
    assert lab.ask(min_answer_tokens=2).answer == "ABC"
    assert lab.show(lab.ask(min_answer_tokens=0)) == f"abcde<|im_start|>{{answer}}{END_OF_TEXT}"


@pytest.mark.parametrize("least, answer", [(0, ""), (1, "A"), (2, "A."), (3, "A.\nC")])
def test_rule_18_white_space_is_no_answer(labs, least, answer):
    """The model writes a newline and stops. Where an answer is asked for it goes on, over white space of any kind."""
    lines = {"answer": ["\n"], "\n": [IM_END, "\n\n", "~"], "\n\n": [IM_END, "A", "~"]}
    words = {"A": [IM_END, ".\n", "~"], ".\n": [IM_END, "C", "~"], "C": [IM_END, "~", "^"]}
    done = labs({**STORY, **lines, **words}).ask(min_answer_tokens=least)
    assert (done.answer, done.finish_reason) == (answer, "stop")
    assert done.text.partition("answer")[2].startswith("\n\n\nA" if least else "\n")


def test_rule_18_the_trigger_is_free_in_the_answer(labs):
    lab = labs({**STORY, "answer": [IM_END, IM_START, "A"], IM_START: [IM_END, "~", "^"]})
    done = lab.ask()
    assert lab.show(done) == "abcde<|im_start|>{answer}<|im_start|><|im_end|>"


def test_rule_18_no_effect_in_plain_and_where_the_prompt_holds_the_end(labs):
    lab = labs({**ANSWERS, **path("(", "a"), "a": [IM_END, "b", "c"], "answer": [IM_END, "A", "B"]})
    assert lab.show(lab.ask("(", min_answer_tokens=5)) == "a<|im_end|>"
    assert lab.show(lab.ask("<|im_start|>thinka<|im_start|>answer", min_answer_tokens=5)) == "<|im_end|>"
