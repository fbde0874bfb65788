"""Rules 1-4, the prompt (section 1) and every format."""

import json

import pytest

from engine import Engine, InputError
from tests.conformance.lab import ANSWERS, ENDLESS, STORY, path
from tests.conformance.scripted import IM_END, IM_START, THINK_CLOSE, write_scripted_checkpoint

QWEN = {"specials": ("<think>", "</think>")}
QWEN_STORY = {
    **path("\n", "a", "b", "c"),
    "c": [THINK_CLOSE, "d", "e"],
    **path("d", "e", "f"),
    "f": [THINK_CLOSE, "g", "h"],
    **path("Wait", "p", "q"),
    "q": [THINK_CLOSE, "r", "s"],
    THINK_CLOSE: ["A", "B", "C"],
    "\n\n": ["X", "Y", "Z"],
    **path("A", "B"),
    "B": [IM_END, "~", "^"],
    **path("X", "Y"),
    "Y": [IM_END, "~", "^"],
}


def test_rule_01_a_several_token_opener_written_over_three_steps(labs):
    lab = labs({**ENDLESS, "(": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]})
    done = lab.ask("(", thinking_token_budget=3, max_tokens=40)
    assert lab.show(done) == "<|im_start|>thinkabc{\n<|im_start|>answer\nFinal Answer:}XY<|im_end|>"


def test_rule_01_an_opener_whose_beginning_overlaps_itself(labs):
    script = {**ENDLESS, "(": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]}
    lab = labs(script, QWEN)
    prompt = "(<|im_start|><|im_start|><|im_start|>"  # three times the token that the opener has twice
    done = lab.ask(prompt, format="overlapping", thinking_token_budget=2, max_tokens=40)
    assert lab.show(done) == "thinkab{\n</think></think>answer:}XY<|im_end|>"


def test_rule_01_a_trigger_whose_beginning_overlaps_itself(labs):
    script = {**path("think", "a", "b"), "b": [THINK_CLOSE, "c", "d"], THINK_CLOSE: ["0", "~", "^"], **ANSWERS}
    lab = labs(script, QWEN)
    opener = "<|im_start|><|im_start|>think"
    once = lab.ask(f"{opener}ab</think></think>", format="overlapping", max_tokens=40)
    assert lab.show(once) == "{answer}ABC<|im_end|>"
    assert once.thinking.tokens == 2  # the two closers stood in the prompt; they turned out to belong to `end`
    more = lab.ask(f"{opener}ab</think></think></think>", format="overlapping", max_tokens=40)
    assert lab.show(more) == "{answer}ABC<|im_end|>"
    assert more.thinking.tokens == 3


def test_rule_01_the_matcher_is_restarted_after_a_mismatch(labs):
    script = {
        **path("think", "a"),
        "a": [IM_START, "b", "c"],
        IM_START: ["x", "y", "z"],
        "x": [IM_START, "y", "z"],
        **ANSWERS,
    }
    lab = labs({**script, IM_START: ["0", "~", "^"], "0": ["b", "~", "^"]})
    done = lab.ask(format="step", max_tokens=40)
    assert lab.show(done) == "a<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.reasoning, done.thinking.stop_reason) == (1, "a", "natural")
    lab = labs({**script, "x": ["b", "y", "z"], **path("b", "c", "d", "e")})
    done = lab.ask(format="step", thinking_token_budget=6, max_tokens=40)
    assert done.reasoning == "a<|im_start|>xbcd"  # half a trigger that came to nothing is reasoning
    assert done.thinking.tokens == 6


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_rule_01_a_delimiter_cut_by_prefill_chunks(labs, chunk):
    lab = labs(ENDLESS, max_num_batched_tokens=chunk, max_num_seqs=1)
    done = lab.ask("(<|im_start|>thinkab", thinking_token_budget=4, max_tokens=40)
    assert lab.show(done) == "cd{\n<|im_start|>answer\nFinal Answer:}XY<|im_end|>"


def test_rule_02_after_a_natural_trigger_the_rest_of_end_is_forced(labs):
    done = labs(STORY).ask()  # the model would have gone on with Q
    assert labs(STORY).show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.stop_reason, done.forced) == ("natural", [6])


def test_rule_02_forced_even_where_the_model_agrees(labs):
    lab = labs({**STORY, IM_START: ["answer", "~", "^"]})
    done = lab.ask()
    assert done.forced == [6] and done.thinking.forced_tokens == 1


def test_rule_02_the_same_way_for_other_answers_of_the_model(labs):
    for other in (IM_END, IM_START, "think", "\n"):
        lab = labs({**STORY, IM_START: [other, "~", "^"]})
        assert lab.show(lab.ask()) == "abcde<|im_start|>{answer}ABC<|im_end|>"


def test_rule_03_the_model_opens_by_itself(labs):
    lab = labs({**STORY, "(": [".", "~", "^"], ".": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]})
    done = lab.ask("(")
    assert lab.show(done) == ".<|im_start|>thinkabcde<|im_start|>{answer}ABC<|im_end|>"
    assert (done.reasoning, done.answer) == ("abcde", "ABC")
    assert done.text == ".<|im_start|>thinkabcde<|im_start|>answerABC"
    assert (done.thinking.tokens, done.thinking.stop_reason) == (5, "natural")


def test_rule_03_the_first_im_start_of_an_opener_is_no_end(labs):
    lab = labs({**STORY, "(": [IM_START, "~", "^"], IM_START: ["x", "~", "^"], "x": [IM_END, "~", "^"]})
    done = lab.ask("(")
    assert lab.show(done) == "<|im_start|>x<|im_end|>"  # not followed by `think`: nothing opened, nothing forced
    assert (done.thinking.stop_reason, done.reasoning, done.answer) == (None, "", "<|im_start|>x")


def test_rule_03_thinking_opens_once_per_response(labs):
    script = {**STORY, "(": [IM_START, "~", "^"], IM_START: ["think", "~", "^"], "C": [IM_START, "~", "^"]}
    lab = labs(script)
    done = lab.ask("(", max_tokens=30)
    assert lab.text(done.token_ids).startswith("<|im_start|>thinkabcde<|im_start|>answerABC<|im_start|>thinkabcde")
    assert done.thinking.tokens == 5 and done.forced == [8]  # after `end`, `<|im_start|>think` is answer text


def test_rule_03_an_opener_that_leaves_no_room_to_close_opens_nothing(labs):
    lab = labs({**ENDLESS, "(": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]})
    done = lab.ask("(", max_tokens=8)  # F + R is 8
    assert done.forced == [] and done.finish_reason == "length"
    done = lab.ask("(", max_tokens=10)
    assert lab.show(done) == "<|im_start|>think{\n<|im_start|>answer\nFinal Answer:}X"
    assert done.thinking.stop_reason == "max_tokens"


def test_rule_04_text_that_spells_a_marker_is_no_marker(labs):
    lab = labs({**path("e", "r", "s"), "s": [IM_END, "~", "^"], **ANSWERS})
    done = lab.ask([*lab.ids("<|im_start|>think"), *(lab.vocabulary[c] for c in "<|im_start|>answe")])
    assert lab.show(done) == "rs{<|im_start|>answer}ABC<|im_end|>"  # the r completed the spelled marker
    assert done.thinking.tokens == 17 + 2


def test_rule_04_user_text_is_encoded_without_specials(labs):
    lab = labs(STORY)
    text = "<|im_start|>think<|im_end|><|im_start|>answer"
    for prompt in (text, {"messages": [{"role": "user", "content": text}]}):
        done = lab.engine.generate([prompt], lab.params())[0]
        ids = done.prompt_token_ids
        assert lab.text(ids).endswith(f"user\n{text}<|im_end|>\n<|im_start|>assistant\n<|im_start|>think")
        assert ids.count(lab.vocabulary[IM_START]) == 4  # system, user, assistant, the opener
        assert done.outputs[0].reasoning == "abcde"


# --- the prompt -------------------------------------------------------------------------------------------------------


def test_a_prompt_already_inside_thinking_gets_no_opener(labs):
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<|im_start|>think{% endif %}"
    )
    lab = labs(STORY, {"chat_template": template})
    done = lab.engine.generate(["Hi"], lab.params())[0]
    assert lab.text(done.prompt_token_ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_start|>think"
    assert done.outputs[0].reasoning == "abcde"


def test_only_what_follows_the_last_eos_of_the_prompt_counts(labs):
    lab = labs({**ENDLESS, "(": ["A", "~", "^"]})
    done = lab.ask("<|im_start|>thinkab<|im_end|>(", thinking_token_budget=3)
    assert (lab.show(done), done.thinking.stop_reason) == ("ABC<|im_end|>", None)
    done = lab.ask("<|im_start|>thinkab<|endoftext|>(<|im_start|>thinkab", thinking_token_budget=3)
    assert (lab.show(done)[:1], done.thinking.tokens) == ("c", 3)


def test_a_prompt_whose_thinking_has_ended_is_never_reopened(labs):
    lab = labs({**ENDLESS, "A": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]})
    done = lab.ask("<|im_start|>thinkab<|im_start|>answer", thinking_token_budget=1, max_tokens=20)
    assert (done.forced, done.thinking.stop_reason, done.reasoning) == ([], None, "")
    assert done.answer == done.text


def test_reasoning_in_the_prompt_counts_in_T_but_not_in_the_usage(labs):
    lab = labs(ENDLESS)
    output = lab.request("<|im_start|>thinkabcd", thinking_token_budget=6)
    assert output.outputs[0].thinking.tokens == 6 and output.usage.reasoning_tokens == 2
    assert output.outputs[0].reasoning == "ef"


def test_a_prompt_that_ends_inside_an_opener_or_a_delimiter(labs):
    lab = labs({**STORY, IM_START: ["think", "~", "^"]})
    done = lab.ask("(<|im_start|>")
    assert lab.show(done) == "thinkabcde<|im_start|>{answer}ABC<|im_end|>"
    done = lab.ask("(<|im_start|>thinkab<|im_start|>")
    assert lab.show(done) == "{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.stop_reason, done.reasoning) == (2, "natural", "")


def test_an_opener_repeated_inside_thinking_does_not_restart_the_count(labs):
    lab = labs(ENDLESS)
    done = lab.ask("<|im_start|>thinkab<|im_start|>thinkab", thinking_token_budget=8)
    assert done.thinking.tokens == 8 and lab.show(done).startswith("cd{\n")


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [None, "qwen3", "deepseek_r1"])
def test_format_qwen3(labs, format):
    lab = labs(QWEN_STORY, QWEN)  # `<think>` is a special token: auto is qwen3
    done = lab.ask("<think>\n", format=format)
    assert lab.show(done) == "abc</think>AB<|im_end|>"
    assert (done.forced, done.reasoning, done.answer) == ([], "abc", "AB")
    done = lab.ask("<think>\n", format=format, thinking_token_budget=2)
    assert lab.show(done) == "ab{\n</think>\n\n}XY<|im_end|>"
    done = lab.ask("<think>\n", format=format, thinking_extensions=1)
    assert lab.show(done) == "abc{Wait}pq</think>AB<|im_end|>"


def test_format_qwen3_opener_is_appended_to_a_rendered_prompt(labs):
    lab = labs(QWEN_STORY, QWEN)
    done = lab.engine.generate(["Hi"], lab.params())[0]
    assert lab.text(done.prompt_token_ids).endswith("<|im_start|>assistant\n<think>\n")


def test_format_s1_where_the_tokenizer_also_has_think(labs):
    lab = labs(STORY, QWEN, thinking_format="s1")
    done = lab.request("<|im_start|>think").outputs[0]
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"


def test_format_none_forces_nothing(labs):
    lab = labs({**STORY, "Q": [IM_END, "~", "^"]})
    done = lab.ask(format="none")
    assert (lab.show(done), done.reasoning, done.answer) == ("abcde<|im_start|>Q<|im_end|>", "", "abcde<|im_start|>Q")
    done = lab.engine.generate(["Hi"], lab.params("none"))[0]
    assert lab.text(done.prompt_token_ids).endswith("<|im_start|>assistant\n")


def test_format_custom_per_request_and_for_the_engine(labs, tmp_path):
    custom = {"opener": "<think>", "end": "</think>A", "budget_end": "</think>A:", "triggers": ["</think>"]}
    script = {**path("<think>", "a", "b", "c"), "c": [THINK_CLOSE, "d", "e"], THINK_CLOSE: ["Q", "~", "^"], **ANSWERS}
    lab = labs(script, QWEN)
    wanted = "abc</think>{A}BC<|im_end|>"
    assert lab.show(lab.request("<think>", thinking_format=custom).outputs[0]) == wanted
    assert lab.show(lab.request("<think>", thinking_format=json.dumps(custom)).outputs[0]) == wanted
    other = labs(script, QWEN, thinking_format=json.dumps(custom))
    assert other.show(other.request("<think>").outputs[0]) == wanted


def test_format_step_conditional(labs):
    script = {**STORY, IM_START: ["0", "1", "2"], "0": ["Q", "~", "^"]}
    lab = labs(script)
    done = lab.ask(format="step")
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"  # the 0 that completed the trigger is replaced
    assert (done.thinking.tokens, done.reasoning) == (5, "abcde")
    lab = labs({**script, IM_START: ["answer", "1", "2"]})
    done = lab.ask(format="step")  # a trigger that is all of `end` needs nothing forced
    assert (lab.show(done), done.forced) == ("abcde<|im_start|>answerABC<|im_end|>", [])


def test_half_a_several_token_trigger_at_the_limit_is_completed(labs):
    lab = labs({**STORY, IM_START: ["Q", "1", "2"]})
    done = lab.ask(format="step", thinking_token_budget=6)
    assert lab.show(done) == "abcde<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.stop_reason, done.reasoning) == (5, "budget", "abcde")


@pytest.mark.parametrize(
    "custom, named",
    [
        ({"opener": "think"}, "think"),
        ({"triggers": ["answer"]}, "answer"),
        ({"end": "answer", "budget_end": "answer:"}, "answer"),
        ({"budget_end": "<|im_end|>answer"}, "<|im_end|>answer"),
        ({"triggers": ["<|im_end|>0"]}, "<|im_end|>0"),
        ({"triggers": []}, "triggers"),
        ({"end": ""}, "end"),
    ],
)
def test_a_format_that_breaks_the_rules_is_refused_at_start(labs, tmp_path, custom, named):
    format = {
        "opener": "<|im_start|>think",
        "end": "<|im_start|>answer",
        "budget_end": "<|im_start|>answer:",
        "triggers": ["<|im_start|>"],
        **custom,
    }
    write_scripted_checkpoint(tmp_path, STORY)
    with pytest.raises(InputError, match=named.replace("|", r"\|")):
        Engine(str(tmp_path), device="cpu", thinking_format=json.dumps(format))
    with pytest.raises(InputError):
        labs(STORY).request(thinking_format=format)
