"""The ten rows of section 3, one test each, and the order in which they are tried."""

from tests.conformance.lab import ENDLESS, STORY
from tests.conformance.scripted import END_OF_TEXT, IM_END, IM_START

CLOSED = "<|im_start|>answer\nFinal Answer:"


def test_row_01_a_forced_string_runs_to_its_end(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_extensions=1, thinking_extension_str="Hmm Wait")
    assert lab.show(done) == "abcde{Hmm Wait}pq<|im_start|>{answer}ABC<|im_end|>"
    assert done.thinking.tokens == 5 + len(lab.ids("Hmm Wait")) + 2


def test_row_02_plain_and_answer_are_the_draw(labs):
    lab = labs(ENDLESS)
    assert lab.show(lab.ask("xy", max_tokens=4)) == "zabc"
    assert lab.show(lab.ask("<|im_start|>think<|im_start|>answer")) == "ABC<|im_end|>"


def test_row_03_below_the_minimum_the_masked_draw(labs):
    lab = labs(STORY)
    done = lab.ask(min_thinking_tokens=9)
    assert lab.show(done) == "abcdefghijk<|im_start|>{answer}ABC<|im_end|>"  # e and h would have ended it, k may
    assert (done.forced, done.thinking.tokens) == ([12], 11)


def test_row_03_the_limit_goes_before_the_minimum(labs):
    lab = labs(STORY)
    done = lab.ask(min_thinking_tokens=9, max_tokens=4 + 8)
    assert lab.show(done) == f"abcd{{\n{CLOSED}}}X"


def test_row_04_eos_under_stop(labs):
    for eos in (IM_END, END_OF_TEXT):
        lab = labs({**STORY, "e": [eos, "f", "g"]})
        done = lab.ask(thinking_eos_policy="stop", thinking_extensions=2)
        assert (lab.show(done), done.finish_reason) == (f"abcde{eos}", "stop")
        assert (done.thinking.stop_reason, done.thinking.tokens, done.reasoning) == ("eos", 5, "abcde")
        assert (done.answer, done.text) == ("", "abcde")


def test_row_04_goes_before_the_limit(labs):
    lab = labs({**STORY, "e": [IM_END, "f", "g"]})
    done = lab.ask(thinking_eos_policy="stop", thinking_token_budget=5)
    assert (lab.show(done), done.thinking.stop_reason) == ("abcde<|im_end|>", "eos")


def test_row_05_an_extension_replaces_the_trigger(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_extensions=1)
    assert lab.show(done) == "abcde{Wait}pq<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.extensions, done.thinking.tokens, done.thinking.forced_tokens) == (1, 8, 2)


def test_row_05_an_eos_uses_an_extension_too(labs):
    lab = labs({**STORY, "e": [IM_END, "f", "g"]})
    done = lab.ask(thinking_extensions=1)
    assert lab.show(done) == "abcde{Wait}pq<|im_start|>{answer}ABC<|im_end|>"


def test_row_05_without_a_string_the_masked_draw(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_extensions=1, thinking_extension_str="")
    assert lab.show(done) == "abcdefgh<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.extensions, done.thinking.tokens, done.forced) == (1, 8, [9])


def test_row_06_a_natural_end(labs):
    lab = labs(STORY)
    done = lab.ask()
    assert (lab.show(done), done.thinking.stop_reason) == ("abcde<|im_start|>{answer}ABC<|im_end|>", "natural")


def test_row_06_an_eos_ends_thinking_and_is_not_written(labs):
    for eos in (IM_END, END_OF_TEXT):
        lab = labs({**STORY, "e": [eos, "f", "g"]})
        done = lab.ask()
        assert (lab.show(done), done.thinking.stop_reason) == ("abcde{<|im_start|>answer}ABC<|im_end|>", "eos")


def test_row_07_truncate(labs):
    done = labs(ENDLESS).ask(thinking_token_budget=3, thinking_budget_action="truncate")
    assert (labs(ENDLESS).show(done), done.finish_reason, done.thinking.stop_reason) == ("abc", "length", "truncated")


def test_row_07_goes_before_grace(labs):
    done = labs(ENDLESS).ask(thinking_token_budget=3, thinking_budget_action="truncate", thinking_grace_tokens=5)
    assert labs(ENDLESS).show(done) == "abc"


def test_row_08_grace(labs):
    done = labs(ENDLESS).ask(thinking_token_budget=3, thinking_grace_tokens=2)
    assert labs(ENDLESS).show(done) == f"abcde{{\n{CLOSED}}}XY<|im_end|>"


def test_row_09_the_limit(labs):
    lab = labs(ENDLESS)
    for params, reason in (
        ({"thinking_token_budget": 3}, "budget"),
        ({"max_tokens": 3 + 8}, "max_tokens"),
        ({"thinking_token_budget": 3, "max_tokens": 3 + 8}, "budget"),
    ):
        done = lab.ask(**params)
        assert (lab.show(done)[:13], done.thinking.stop_reason) == ("abc{\n<|im_sta", reason)
    small = labs(ENDLESS, max_model_len=32)
    done = small.ask()
    assert (done.thinking.stop_reason, done.thinking.tokens) == ("context", 32 - 2 - 8)
    done = small.ask(max_tokens=30)
    assert (done.thinking.stop_reason, done.thinking.tokens) == ("max_tokens", 22)


def test_row_10_everything_else_is_the_draw(labs):
    lab = labs({**ENDLESS, "c": [IM_END, "~", "^"], IM_END: ["d", "~", "^"]})
    done = lab.ask(thinking_token_budget=6, ignore_eos=True, max_tokens=20)
    assert lab.show(done)[:18] == "abc<|im_end|>de{\n<"
    assert done.thinking.tokens == 6


def test_a_trigger_that_is_not_how_end_begins(labs):
    lab = labs({**ENDLESS, "c": [END_OF_TEXT, "d", "e"]})
    format = {
        "opener": "<|im_start|>think",
        "end": "<|im_start|>answer",
        "budget_end": "<|im_start|>answer:",
        "triggers": [END_OF_TEXT, IM_START],
    }
    done = lab.request(thinking_format=format).outputs[0]
    assert (lab.show(done), done.thinking.stop_reason) == ("abc{<|im_start|>answer}ABC<|im_end|>", "natural")
