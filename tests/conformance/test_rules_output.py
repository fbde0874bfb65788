"""Rules 30-33: text, reasoning and answer; streams; the report; forced positions."""

import pytest
from hypothesis import given, settings

from engine.request import Delta, TokenKind
from tests.conformance.cases import EVERY, ROOMY, SPECIALS, VOCABULARY, Case, cases, random_table
from tests.conformance.lab import ENDLESS, STORY, Lab, path
from tests.conformance.scripted import END_OF_TEXT, IM_END, IM_START

CLOSED = "<|im_start|>answer\nFinal Answer:"
OPENS = {"(": [".", "~", "^"], ".": [IM_START, "~", "^"], IM_START: ["think", "~", "^"]}


def test_rule_30_text_is_everything_decoded_but_the_final_eos(labs):
    for eos in (IM_END, END_OF_TEXT):
        lab = labs({**STORY, "C": [eos, "D", "E"]})
        done = lab.ask(thinking_extensions=1)
        assert done.text == "abcdeWaitpq<|im_start|>answerABC" and done.token_ids[-1] == lab.vocabulary[eos]
    lab = labs({**STORY, "e": [IM_END, "f", "g"], IM_END: ["x", "y", "~"]})
    assert lab.ask(ignore_eos=True, max_tokens=30).text.startswith("abcde<|im_end|>x")  # one that ends nothing is shown


def test_rule_30_reasoning_and_answer(labs):
    lab = labs(
        {
            **STORY,
            "answer": ["\n", "A", "B"],
            "\n": [" so", "n", "o"],
            " so": ["A", "~", "^"],
            "B": [".\n\n", "C"],
            ".\n\n": [IM_END, "~"],
        }
    )
    done = lab.ask("<|im_start|>think")
    assert done.text == "abcde<|im_start|>answer\n soAB.\n\n"
    assert (done.reasoning, done.answer) == ("abcde", "soAB.")


def test_rule_30_white_space_at_both_ends_of_the_reasoning(labs):
    script = {
        **STORY,
        "think": ["\n", "a", "b"],
        "\n": ["a", "~", "^"],
        "e": ["\n\n", "f", "g"],
        "\n\n": [IM_START, "x", "y"],
    }
    done = labs(script).ask()
    assert (done.text[:8], done.reasoning) == ("\nabcde\n\n", "abcde")


def test_rule_30_a_forced_final_answer_belongs_to_the_answer(labs):
    done = labs(ENDLESS).ask(thinking_token_budget=3)
    assert (done.reasoning, done.answer) == ("abc", "Final Answer:XY")
    assert done.text == f"abc\n{CLOSED}XY"


def test_rule_30_text_before_an_opener_is_in_text_alone(labs):
    done = labs({**STORY, **OPENS}).ask("(")
    assert done.text == ".<|im_start|>thinkabcde<|im_start|>answerABC"
    assert (done.reasoning, done.answer) == ("abcde", "ABC")


def test_rule_30_without_thinking(labs):
    done = labs({**path("(", "a", "b"), "b": [IM_END, "~", "^"]}).ask("(")
    assert (done.text, done.reasoning, done.answer) == ("ab", "", "ab")
    done = labs(STORY).ask(format="none", max_tokens=8)
    assert (done.reasoning, done.answer) == ("", "abcde<|im_start|>Q")


def test_rule_30_split_by_position_and_never_by_searching(labs):
    """The model spells both delimiters in ordinary tokens inside the reasoning and inside the answer."""
    lab = labs(STORY)
    marks = [lab.vocabulary[c] for c in "<|im_start|>answer<|im_start|>think"]
    prompt = [*lab.ids("<|im_start|>think"), *marks, *lab.ids("a")]
    done = lab.ask(prompt)
    assert (done.reasoning, done.answer) == ("bcde", "ABC")
    script = {**path("think", "<", "|", "x"), "x": [IM_START, "~", "^"], "answer": ["think", "~", "^"]}
    done = labs({**script, "think": ["<", "a", "b"]}).ask(max_tokens=20)
    assert done.reasoning == "<|x" and done.answer.startswith("think<|x<|im_start|>")


def test_rule_30_an_unfinished_thought_and_an_abort(labs):
    lab = labs(ENDLESS, max_model_len=4096, kv_cache_tokens=4096)
    handle = lab.engine.submit(lab.ids("<|im_start|>think"), lab.params())
    for delta in handle:
        if len(delta.token_ids):
            handle.abort()
            break
    done = handle.result().outputs[0]
    assert (done.finish_reason, done.answer, done.thinking.stop_reason) == ("abort", "", None)
    assert done.reasoning == done.text and len(done.text) == len(done.token_ids) == done.thinking.tokens


def check_stream(lab: Lab, case: Case, deltas: list[Delta]) -> None:
    """What every stream owes: one kind per delta, nothing lost, nothing twice, the last delta last."""
    want, texts = lab.oracle(case), case.texts(lab.vocabulary)
    done = deltas[-1].output.outputs[0]
    assert [d.output is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    assert [d.finish_reason for d in deltas if d.finish_reason] == [want.finish_reason]
    assert [t for d in deltas for t in d.token_ids] == want.token_ids == done.token_ids
    assert [p for d in deltas for p in d.forced] == want.forced == done.forced
    assert "".join(d.text for d in deltas) == done.text
    if case.params.stop_token_ids or case.params.ignore_eos:
        return
    for kind in TokenKind:
        assert "".join(d.text for d in deltas if d.kind is kind) == want.text(texts, kind), kind


def stream(lab: Lab, prompt: str = "<|im_start|>think", format: str | None = None, **params) -> list[Delta]:
    ids = lab.ids(prompt)
    deltas = list(lab.engine.stream(ids, lab.params(format, **params)))
    check_stream(lab, Case(format or lab.default_format, lab.params(**params), tuple(ids)), deltas)
    return deltas


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"thinking_token_budget": 3},
        {"thinking_extensions": 1},
        {"thinking_extensions": 2, "thinking_extension_str": ""},
        {"thinking_token_budget": 3, "thinking_end_str": "Wait.\n<|im_start|>answer!"},
        {"format": "none", "max_tokens": 9},
        {"thinking_token_budget": 2, "thinking_budget_action": "truncate"},
        {"format": "step", "thinking_token_budget": 9},
    ],
)
def test_rule_31_streams(labs, params):
    deltas = stream(labs(STORY), **params)
    shown = [(d.kind, d.text) for d in deltas if d.text]
    order = [TokenKind.PLAIN, TokenKind.OPENER, TokenKind.REASONING, TokenKind.DELIMITER, TokenKind.ANSWER]
    if "thinking_end_str" not in params:
        assert [order.index(kind) for kind, _ in shown] == sorted(order.index(kind) for kind, _ in shown)


def test_rule_31_a_possible_opener_is_held_back_and_released(labs):
    deltas = stream(labs({**STORY, **OPENS}), "(")
    assert [d.text for d in deltas if d.kind is TokenKind.PLAIN and d.text] == ["."]
    assert "".join(d.text for d in deltas if d.kind is TokenKind.OPENER) == "<|im_start|>think"
    other = {**STORY, **OPENS, IM_START: ["x", "~", "^"], "x": [IM_END, "~", "^"]}
    deltas = stream(labs(other), "(")
    assert "".join(d.text for d in deltas if d.kind is TokenKind.PLAIN) == ".<|im_start|>x"


def test_rule_31_a_possible_trigger_is_held_back_and_released(labs):
    lab = labs({**STORY, IM_START: ["0", "1", "2"]})
    deltas = stream(lab, format="step")
    assert "".join(d.text for d in deltas if d.kind is TokenKind.REASONING) == "abcde"
    lab = labs({**STORY, IM_START: ["f", "1", "2"], "h": ["x", "~", "^"]})
    deltas = stream(lab, format="step", thinking_token_budget=9)
    assert "".join(d.text for d in deltas if d.kind is TokenKind.REASONING) == "abcde<|im_start|>fgh"
    first = next(i for i, d in enumerate(deltas) if "<|im_start|>" in d.text)
    assert deltas[first - 1].text == "e" and deltas[first].kind is TokenKind.REASONING
    lab = labs({**STORY, IM_START: ["Q", "1", "2"]})  # cut with half a trigger held: it becomes part of `end`
    deltas = stream(lab, format="step", thinking_token_budget=6)
    assert "".join(d.text for d in deltas if d.kind is TokenKind.DELIMITER) == "<|im_start|>answer"


def test_rule_31_characters_cut_in_half(labs):
    script = {
        "think": ["a", "~", "^"],
        **path("a", b"\xe2", b"\x82", b"\xac", "a"),
        "\n": ["n", "~", "^"],
        **ENDLESS,
        "a": [b"\xe2"],
    }
    script.update({"answer": [b"\xe2", "~"], b"\xe2": [b"\x82", "~"], b"\x82": [b"\xac", "~"], b"\xac": ["a", "~"]})
    for budget in range(5):
        deltas = stream(labs(script), thinking_token_budget=budget, max_tokens=16)
        reasoning = "".join(d.text for d in deltas if d.kind is TokenKind.REASONING)
        assert reasoning == deltas[-1].output.outputs[0].reasoning == "a€"[: (budget > 0) + (budget > 3)]
        assert sum(d.text.count("�") for d in deltas if d.kind is TokenKind.DELIMITER) == (budget in (2, 3))


@pytest.mark.parametrize("seed", [1, 2])
def test_rule_31_streams_of_random_scripts(labs, seed):
    lab = labs(random_table(seed), {"specials": SPECIALS, "best": 60.0}, **ROOMY)

    @settings(max_examples=25)
    @given(case=cases(VOCABULARY, EVERY))
    def check(case: Case) -> None:
        knobs = {k: v for k, v in vars(case.params).items() if k != "thinking_format"}
        deltas = list(lab.engine.stream(list(case.prompt), lab.params(case.format, **knobs)))
        check_stream(lab, case, deltas)

    check()


def test_rule_31_samples_of_one_stream(labs):
    lab = labs(STORY)
    deltas = list(lab.engine.stream(lab.ids("<|im_start|>think"), lab.params(n=3, thinking_token_budget=4)))
    assert [d.output is not None for d in deltas].count(True) == 1 and deltas[-1].output is not None
    for done in deltas[-1].output.outputs:
        mine = [d for d in deltas if d.index == done.index]
        assert "".join(d.text for d in mine) == done.text and [t for d in mine for t in d.token_ids] == done.token_ids
        assert [d.finish_reason for d in mine if d.finish_reason] == [done.finish_reason]


def test_rule_32_the_report(labs):
    lab = labs(STORY)
    output = lab.request("<|im_start|>thinkab", thinking_token_budget=30, thinking_extensions=1)
    done = output.outputs[0]
    assert lab.show(done) == "cde{Wait}pq<|im_start|>{answer}ABC<|im_end|>"
    assert (done.thinking.tokens, done.thinking.forced_tokens, done.thinking.extensions) == (8, 2, 1)
    assert (done.thinking.stop_reason, done.finish_reason) == ("natural", "stop")
    assert (output.usage.prompt_tokens, output.usage.completion_tokens) == (4, 12)
    assert (output.usage.reasoning_tokens, output.usage.forced_tokens) == (6, 2)


@pytest.mark.parametrize(
    "script, params, reason, finish",
    [
        ({}, {}, "natural", "stop"),
        ({"e": [IM_END, "f"]}, {}, "eos", "stop"),
        ({"e": [IM_END, "f"]}, {"thinking_eos_policy": "stop"}, "eos", "stop"),
        ({}, {"thinking_token_budget": 2}, "budget", "stop"),
        ({}, {"max_tokens": 12}, "max_tokens", "length"),
        ({"e": ["a", "b"]}, {}, "context", "length"),
        ({}, {"thinking_token_budget": 2, "thinking_budget_action": "truncate"}, "truncated", "length"),
        ({"e": ["e", "f"]}, {"loop_ngram": 1, "loop_count": 4}, "loop", "stop"),
        ({}, {"thinking_format": "none", "max_tokens": 7}, None, "length"),
    ],
)
def test_rule_32_stop_and_finish_reasons(labs, script, params, reason, finish):
    done = labs({**STORY, **script}).request(**params).outputs[0]
    assert (done.thinking.stop_reason, done.finish_reason) == (reason, finish)


def test_rule_33_forced_lists_positions_in_token_ids(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_token_budget=9, thinking_extensions=1)
    assert lab.show(done) == "abcde{Wait}pq<|im_start|>{answer}ABC<|im_end|>" and done.forced == [5, 9]
    done = lab.ask(thinking_token_budget=3)
    assert done.forced == [3, 4, 5, 6, 7, 8, 9]
    assert lab.ask("a", format="none", max_tokens=3).forced == []
