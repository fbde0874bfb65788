"""Rules 5-9: the budget, the newline, the cut and the grace window."""

import pytest

from tests.conformance.lab import ANSWERS, ENDLESS, STORY, path
from tests.conformance.scripted import IM_END, IM_START

CLOSED = "<|im_start|>answer\nFinal Answer:"


@pytest.mark.parametrize("budget, thought", [(0, ""), (1, "a"), (2, "ab"), (7, "abcdefg"), (30, None)])
def test_rule_05_nothing_adds_to_T_at_the_budget(labs, budget, thought):
    lab = labs(ENDLESS)
    done = lab.ask(thinking_token_budget=budget)
    assert done.thinking.tokens == budget and done.thinking.stop_reason == "budget"
    if thought is not None:
        assert lab.show(done) == f"{thought}{{\n{CLOSED}}}XY<|im_end|>"
        assert done.reasoning == thought


@pytest.mark.parametrize("budget", [0, 1, 3, 4])
def test_rule_05_a_budget_below_the_reasoning_in_the_prompt(labs, budget):
    lab = labs(ENDLESS)
    done = lab.ask("<|im_start|>thinkabcd", thinking_token_budget=budget)
    assert lab.show(done) == f"{{\n{CLOSED}}}XY<|im_end|>"
    assert done.thinking.tokens == 4


def test_rule_05_a_budget_lowered_while_running(labs):
    lab = labs(ENDLESS, max_model_len=4096, kv_cache_tokens=8192)
    handle = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params(thinking_token_budget=3500))
    for delta in handle:
        if delta.token_ids:
            handle.set_budget(5)
            break
    done = handle.result().outputs[0]
    assert done.thinking.stop_reason == "budget" and 5 <= done.thinking.tokens < 3500
    cut = done.forced[0]
    assert lab.text(done.token_ids[cut:]) == f"\n{CLOSED}XY<|im_end|>" and cut == done.thinking.tokens


def test_rule_06_a_trigger_drawn_exactly_at_the_limit_ends_naturally(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_token_budget=5)
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.stop_reason) == (5, "natural")
    done = lab.ask(thinking_token_budget=4)
    assert lab.show(done) == f"abcd{{\n{CLOSED}}}XY<|im_end|>"
    done = lab.ask(thinking_token_budget=5, thinking_extensions=3)  # and is never extended there
    assert (lab.show(done), done.thinking.extensions) == ("abcde<|im_start|>{answer}ABC<|im_end|>", 0)


def test_rule_06_the_same_for_an_eos_and_at_max_tokens(labs):
    lab = labs({**STORY, "e": [IM_END, "f", "g"]})
    done = lab.ask(thinking_token_budget=5)
    assert lab.show(done) == "abcde{<|im_start|>answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.stop_reason) == (5, "eos")
    done = lab.ask(max_tokens=5 + 8)  # room is F + R when the end is drawn
    assert done.thinking.stop_reason == "eos"
    done = lab.ask(max_tokens=4 + 8)
    assert done.thinking.stop_reason == "max_tokens"


@pytest.mark.parametrize("last", ["\n", ".\n\n", ".\n", "\n\n"])
def test_rule_07_no_newline_where_the_text_ends_in_one(labs, last):
    lab = labs({**ENDLESS, "c": [last, "~", "^"], last: ["d", "~", "^"]})
    done = lab.ask(thinking_token_budget=4)
    assert lab.show(done) == f"abc{last}{{{CLOSED}}}XY<|im_end|>"
    done = lab.ask(thinking_token_budget=5)
    assert lab.show(done) == f"abc{last}d{{\n{CLOSED}}}XY<|im_end|>"


def test_rule_07_the_text_so_far_includes_the_prompt(labs):
    lab = labs(ENDLESS)
    assert lab.show(lab.ask("<|im_start|>think\n", thinking_token_budget=1)) == f"{{{CLOSED}}}XY<|im_end|>"
    assert lab.show(lab.ask("<|im_start|>think\na", thinking_token_budget=1)) == f"{{\n{CLOSED}}}XY<|im_end|>"


def test_rule_07_the_opener_of_qwen3_ends_in_a_newline(labs):
    script = {"\n": ["a", "~", "^"], "\n\n": ["X", "~", "^"], **path("a", "b", "c"), "X": [IM_END, "~", "^"]}
    lab = labs(script, {"specials": ("<think>", "</think>")})
    assert lab.show(lab.ask("<think>\n", thinking_token_budget=0)) == "{</think>\n\n}X<|im_end|>"


def test_rule_08_a_cut_inside_a_character(labs):
    script = {"think": ["a", "~", "^"], **path("a", b"\xe2", b"\x82", b"\xac", "a"), "\n": ["n", "~", "^"], **ANSWERS}
    lab = labs(script)
    whole = lab.ask(thinking_token_budget=4)
    assert whole.reasoning == "a€"
    for budget in (2, 3):
        done = lab.ask(thinking_token_budget=budget)
        assert done.reasoning == "a" and done.text == f"a�\n{CLOSED}XY"
        assert done.token_ids[:budget] == whole.token_ids[:budget]
        assert lab.vocabulary.bytes_of[done.token_ids[budget]] == b"\n"


def test_rule_08_a_natural_end_inside_a_character(labs):
    lab = labs({"think": [b"\xe2", "~", "^"], b"\xe2": [b"\x82", "~", "^"], b"\x82": [IM_START, "~", "^"], **ANSWERS})
    done = lab.ask()
    assert (done.text, done.reasoning) == ("�<|im_start|>answerABC", "")


LINES = {**path("think", "a", "b", "c", "d", "\n", "e", "f", "g", "h"), **path("h", "i", "j", "k", "l"), **ANSWERS}


@pytest.mark.parametrize(
    "budget, grace, thought",
    [
        (2, 0, "ab"),
        (2, 1, "abc"),
        (2, 2, "abcd"),
        (2, 3, "abcd\n"),
        (2, 9, "abcd\n"),
        (5, 9, "abcd\n"),
        (6, 2, "abcd\nefg"),
    ],
)
def test_rule_09_grace_ends_at_a_newline_or_at_B_plus_g(labs, budget, grace, thought):
    lab = labs({**LINES, "l": ["a", "~", "^"]})
    done = lab.ask(thinking_token_budget=budget, thinking_grace_tokens=grace)
    newline = "" if thought.endswith("\n") else "\n"
    assert lab.show(done).startswith(f"{thought}{{{newline}{CLOSED}}}")
    assert done.thinking.tokens == len(thought) <= budget + grace
    assert done.thinking.stop_reason == "budget"


def test_rule_09_grace_never_enters_the_reserve(labs):
    lab = labs(ENDLESS)
    done = lab.ask(thinking_token_budget=4, thinking_grace_tokens=50, answer_reserve_tokens=3, max_tokens=16)
    assert lab.show(done) == f"abcdef{{\n{CLOSED}}}XY<|im_end|>"  # F + R is 10: room for 6 tokens of thought
    assert (done.thinking.tokens, done.thinking.stop_reason) == (6, "budget")


def test_rule_09_a_trigger_in_the_grace_window_is_never_extended(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_token_budget=3, thinking_grace_tokens=10, thinking_extensions=2)
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.extensions, done.thinking.stop_reason) == (5, 0, "natural")


def test_rule_09_nothing_to_be_gracious_about_where_the_prompt_is_past_it(labs):
    lab = labs(ENDLESS)
    done = lab.ask("<|im_start|>thinkabcdef", thinking_token_budget=3, thinking_grace_tokens=3)
    assert lab.show(done).startswith(f"{{\n{CLOSED}}}")


def test_truncate_forces_nothing_and_reserves_nothing(labs):
    lab = labs(ENDLESS)
    done = lab.ask(thinking_token_budget=4, thinking_budget_action="truncate")
    assert (lab.show(done), done.finish_reason, done.thinking.stop_reason) == ("abcd", "length", "truncated")
    assert (done.forced, done.answer, done.reasoning) == ([], "", "abcd")
    done = lab.ask(thinking_budget_action="truncate", max_tokens=5)
    assert (lab.show(done), done.finish_reason, done.thinking.stop_reason) == ("abcde", "length", "truncated")
    done = lab.ask(thinking_token_budget=0, thinking_budget_action="truncate")
    assert (done.token_ids, done.finish_reason, done.thinking.stop_reason) == ([], "length", "truncated")


def test_truncate_lets_a_natural_end_be(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_token_budget=5, thinking_budget_action="truncate")
    assert (lab.show(done), done.thinking.stop_reason) == ("abcde<|im_start|>{answer}ABC<|im_end|>", "natural")
    done = lab.ask(thinking_budget_action="truncate", max_tokens=6)  # no room for all of `end`: none of it is written
    assert (lab.show(done), done.thinking.stop_reason) == ("abcde", "truncated")
    done = lab.ask(thinking_budget_action="truncate", max_tokens=7)
    assert (lab.show(done), done.finish_reason) == ("abcde<|im_start|>{answer}", "length")


def test_end_string_of_the_request(labs):
    lab = labs({**ENDLESS, "!": ["X", "~", "^"]})
    done = lab.ask(thinking_token_budget=2, thinking_end_str="<|im_start|>answer!")
    assert lab.show(done) == "ab{\n<|im_start|>answer!}XY<|im_end|>"
    assert done.answer == "!XY"
    done = lab.ask(thinking_token_budget=2, thinking_end_str="Wait.\n<|im_start|>answer")
    assert lab.show(done) == "ab{\nWait.\n<|im_start|>answer}ABC<|im_end|>"
    assert (done.reasoning, done.answer, done.thinking.tokens) == ("abWait.", "ABC", 2) or done.reasoning == "ab\nWait."


def test_end_string_is_not_used_for_a_natural_end(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_end_str="Wait.\n<|im_start|>answer!")
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"


def test_a_story_without_a_budget_still_closes_in_time(labs):
    lab = labs(ENDLESS)
    done = lab.ask(answer_reserve_tokens=100, max_tokens=200)  # s1's `auto`
    assert (done.thinking.tokens, done.thinking.stop_reason) == (200 - 107, "max_tokens")
    done = lab.ask(answer_reserve_tokens=100)
    assert (done.thinking.tokens, done.thinking.stop_reason) == (lab.context - 2 - 107, "context")
    assert IM_START in done.text and done.finish_reason == "stop"
