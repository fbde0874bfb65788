"""Delimiters of plain text: rules 36 and 37, and what holds for them as for special tokens."""

import itertools
import json
import re

import pytest

from engine import SamplingParams
from engine.errors import InputError
from engine.request import TokenKind
from engine.text.output import AnswerWrapper
from tests.conformance.lab import IM_END, Script, path

THINK = "<think>\n"
WORDS = ("</", ">\n", ">\n\n", "x<", "/think", "</think", ">z", "</think>", "y</think>w", "<think", "k>", "</thin")
"""Ways to cut the delimiters: each of these is one token."""
CHECKPOINT = {"words": WORDS}
ENDS: Script = {**path("A", "B", "C"), "C": [IM_END, "D", "E"]}
STORY: Script = {
    **path(">\n", "a", "b", "c", "</", "think"),
    "think": [">", "g", "h"],
    ">": ["A", "B", "C"],
    **path("Wait", "p", "q", "</"),
    **path("g", "h", "i", "</"),
    "c": ["</", "g", "h"],
    "q": ["</", "r", "s"],
    **path("r", "s", "t", "</"),
    "\n": ["n", "o", "^"],
    "</": ["think", "u", "v"],
    ">\n\n": ["A", "B", "C"],
    **ENDS,
}
"""Thinking abc, then the trigger in three tokens; behind `Wait` it is pq."""
CUTS = (
    ["</", "think", ">"],
    ["<", "/", "t", "h", "i", "n", "k", ">"],
    ["</think>"],
    ["</", "think", ">\n\n"],
    ["</think", ">z"],
    ["x<", "/think", ">"],
    ["y</think>w"],
    ["<", "</", "think", ">"],
    ["<", "/think", ">z"],
    ["</thin", "k>"],
)
"""Ways to write the end, some with text around it."""


def qwen(labs, script=STORY, **config):
    return labs(script, CHECKPOINT, thinking_format="qwen3", **config)


def read(done):
    out = done.outputs[0] if hasattr(done, "outputs") else done
    return out.reasoning, out.answer, out.thinking.tokens, out.thinking.stop_reason, out.thinking.extensions


def test_a_natural_end(labs):
    """Rule 36: the trigger is `end`, nothing is forced behind it, none of its tokens are in T."""
    lab = qwen(labs)
    done = lab.request(THINK)
    assert read(done) == ("abc", "ABC", 3, "natural", 0)
    assert lab.show(done.outputs[0]) == f"abc</think>ABC{IM_END}"
    assert done.usage.reasoning_tokens == 3


@pytest.mark.parametrize("cut", CUTS, ids="|".join)
def test_however_the_tokenizer_cuts_the_end(labs, cut):
    """Rule 36, and 31: reasoning and answer are told apart inside a token too, streamed or not."""
    script = {**path(">\n", "a", *cut, "A"), **ENDS}
    if cut == ["<", "/", "t", "h", "i", "n", "k", ">"]:
        script |= path("</", "think", ">")
    lab = qwen(labs, script)
    done = lab.request(THINK)
    spelled = "".join(cut)
    at = spelled.index("</think>")
    before, behind = "a" + spelled[:at], spelled[at + len("</think>") :] + "ABC"
    out = done.outputs[0]
    assert (out.reasoning, out.answer, out.text) == (before.strip(), behind.strip(), "a" + spelled + "ABC")
    touched = next(n for n in range(1, len(cut) + 1) if "</think>" in "".join(cut[-n:]))
    assert (out.thinking.tokens, out.thinking.stop_reason) == (1 + len(cut) - touched, "natural")
    deltas = list(lab.engine.stream(lab.ids(THINK), SamplingParams()))
    text = {kind: "".join(d.text for d in deltas if d.kind is kind) for kind in TokenKind}
    assert text[TokenKind.REASONING] == before and text[TokenKind.DELIMITER] == "</think>"
    assert text[TokenKind.ANSWER] == behind
    assert [i for d in deltas for i in d.token_ids] == out.token_ids


@pytest.mark.parametrize("budget", range(7))
def test_a_budget_inside_a_delimiter(labs, budget):
    """Rules 5, 6 and 37: a trigger that begins at the limit ends naturally, as one of one token does."""
    lab = qwen(labs)
    done = lab.request(THINK, thinking_token_budget=budget)
    kept = "abc"[:budget]
    if budget < 3:
        assert read(done) == (kept, "ABC", len(kept), "budget", 0)
        assert done.outputs[0].text == kept + ("" if budget == 0 else "\n") + "</think>\n\nABC"
    else:
        assert read(done) == ("abc", "ABC", 3, "natural", 0)


@pytest.mark.parametrize("cut", CUTS, ids="|".join)
@pytest.mark.parametrize("text", ["Wait", ""])
def test_an_extension_takes_the_trigger_back(labs, cut, text):
    """Rule 37: none of its tokens stay in the sequence or the output."""
    script = {**path(">\n", "a", *cut, "A"), **ENDS, **path("Wait", "p", "q", "v", "w", IM_END)}
    script |= {"a": [cut[0], "Wait", "p"], **path("</think>", "A"), **path(">", "A")}
    if cut == ["<", "/", "t", "h", "i", "n", "k", ">"]:
        script |= path("</", "think", ">")
    if cut[:2] == ["<", "</"]:
        script["<"] = ["</", "Wait", "p"]
    lab = qwen(labs, script)
    done = lab.request(THINK, thinking_extensions=1, thinking_extension_str=text)
    before = "a<" if cut[:2] == ["<", "</"] else "a"
    assert read(done) == (before + "Waitpqvw", "ABC", len(before) + 5, "eos", 1)
    assert done.outputs[0].text == before + "Waitpqvw</think>ABC"
    forced = [len(before)] if text else []
    assert done.outputs[0].forced[: len(forced)] == forced
    deltas = list(lab.engine.stream(lab.ids(THINK), SamplingParams(thinking_extensions=1, thinking_extension_str=text)))
    assert [i for d in deltas for i in d.token_ids] == done.outputs[0].token_ids
    assert "".join(d.text for d in deltas if d.kind is TokenKind.REASONING) == before + "Waitpqvw"


def test_half_a_trigger_at_the_limit_is_taken_back(labs):
    """Rules 5 and 37: what turns out to be none is not in T, and not in the text."""
    script = {**STORY, "think": ["d", "g", "h"], **path("d", "e", "f", "g")}
    out = qwen(labs, script).request(THINK, thinking_token_budget=3).outputs[0]
    assert (out.text, out.reasoning, out.thinking.tokens) == ("abc\n</think>\n\nABC", "abc", 3)
    assert out.thinking.stop_reason == "budget"
    room = qwen(labs).request(THINK, max_tokens=10, answer_reserve_tokens=3).outputs[0]  # a newline, three, three
    assert (room.text, room.thinking.stop_reason) == ("abc\n</think>\n\nABC", "max_tokens")


def test_several_extensions_and_a_minimum(labs):
    """Rules 10 and 11: each extension takes its trigger back; below the minimum the masked draw stands in its place."""
    lab = qwen(labs)
    done = lab.request(THINK, thinking_extensions=3)
    assert read(done) == ("abcWaitpqWaitpqWaitpq", "ABC", 12, "natural", 3)
    done = lab.request(THINK, min_thinking_tokens=5)
    assert read(done) == ("abcghi", "ABC", 6, "natural", 0)
    done = lab.request(THINK, min_thinking_tokens=8)
    # Behind `i` only the end is listed: the masked draw takes what is next of all tokens.
    assert done.outputs[0].reasoning.startswith("abcghi") and done.outputs[0].thinking.tokens >= 8


def test_no_extension_where_it_does_not_fit(labs):
    """Rule 12."""
    done = qwen(labs).request(THINK, thinking_extensions=9, thinking_extension_str="Waitp", thinking_token_budget=5)
    assert read(done) == ("abc", "ABC", 3, "natural", 0)


def test_eos_behind_half_a_trigger(labs):
    script = {**STORY, "think": [IM_END, "g", "h"]}
    lab = qwen(labs, script)
    assert read(lab.request(THINK)) == ("abc", "ABC", 3, "eos", 0)
    stopped = lab.request(THINK, thinking_eos_policy="stop").outputs[0]
    assert (stopped.reasoning, stopped.answer, stopped.thinking.stop_reason) == ("abc</think", "", "eos")


def test_half_a_trigger_that_is_none(labs):
    """What may begin a delimiter is held back and released if it was not one (rule 31), and counts in T."""
    script = {**STORY, "think": ["d", "g", "h"], **path("d", "e", IM_END), **path("</think>", "A")}
    lab = qwen(labs, script)
    assert read(lab.request(THINK)) == ("abc</thinkde", "ABC", 7, "eos", 0)


@pytest.mark.parametrize("opening", [["<", "think", ">\n"], ["<think", ">\n\n"], ["x<", "think", ">\n"]], ids="|".join)
def test_the_model_opens_by_itself(labs, opening):
    """Rules 3 and 36: the opener is no trigger; what a token holds besides it is reasoning, or plain text."""
    script = {**STORY, **path("Q", *opening, "a"), **path("c", "</think>", "A")}
    lab = qwen(labs, script)
    out = lab.request("Q").outputs[0]
    assert (out.reasoning, out.answer, out.thinking.tokens) == ("abc", "ABC", 3)
    assert out.text == "".join(opening) + "abc</think>ABC"
    kinds = [(d.text, d.kind) for d in lab.engine.stream(lab.ids("Q"), SamplingParams()) if d.text]
    assert "".join(t for t, k in kinds if k is TokenKind.OPENER) == "<think>\n"


def test_a_trigger_that_begins_in_the_prompt(labs):
    """It is recognised, and what the prompt holds is not taken back."""
    lab = qwen(labs)
    out = lab.request(THINK + "a</").outputs[0]
    assert (out.text, out.reasoning, out.answer, out.thinking.stop_reason) == ("think>ABC", "", "ABC", "natural")
    closed = lab.request(THINK + "a</think>\n\n").outputs[0]
    assert (closed.text, closed.answer, closed.thinking.stop_reason) == ("ABC", "ABC", None)


def test_thinking_end_str_and_grace(labs):
    lab = qwen(labs)
    out = lab.request(THINK, thinking_token_budget=2, thinking_end_str="So.</think>Z").outputs[0]
    assert (out.text, out.reasoning) == ("ab\nSo.</think>Z" + out.text[len("ab\nSo.</think>Z") :], "ab\nSo.")
    assert out.answer.startswith("Z")


WRAPPED = {
    "opener": "<think>\n",
    "end": "</think>",
    "budget_end": "</think>\n<answer>\n",
    "triggers": ["</think>"],
    "answer_opener": "<answer>",
    "answer_end": "</answer>",
}


def test_what_the_answer_is_wrapped_in(labs):
    """It is in `text` and not in `answer`, streamed or not; half of it that is none is."""
    cases = {
        "<answer>\nAB</answer>": "AB",
        "\n<answer>AB</ans": "AB</ans",
        "AB</answer>\n": "AB",
        "<ans>A": "<ans>A",
        "": "",
    }
    for text, answer in cases.items():
        for cuts in itertools.combinations(range(1, len(text)), 2):
            wrapper = AnswerWrapper("<answer>", "</answer>")
            pieces = [text[a:b] for a, b in itertools.pairwise((0, *cuts, len(text)))]
            parts = [part for piece in pieces for part in wrapper.push(piece)] + wrapper.flush()
            assert "".join(t for t, _ in parts) == text
            assert "".join(t for t, is_answer in parts if is_answer).strip() == answer.strip()
    lab = labs({**STORY, ":": [IM_END]}, CHECKPOINT, thinking_format=json.dumps(WRAPPED))
    out = lab.request(THINK, thinking_token_budget=1).outputs[0]
    assert out.text.startswith("a\n</think>\n<answer>\n") and "<answer>" not in out.answer


@pytest.mark.parametrize(
    "custom, named",
    [
        ({"triggers": ["</think>", "\n\n</think>\n"]}, "occurs again inside '\\n\\n</think>"),
        ({"triggers": ["</thought>"]}, "end '</think>' is none of the triggers"),
        ({"budget_end": "So.</think>"}, "budget_end 'So.</think>' does not begin with end"),
        ({"budget_end": "</think></think>"}, "holds trigger '</think>'"),
        ({"opener": "<" + "o" * 200}, "give at most 126"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(labs, custom, named):
    strings = {"opener": "<think>\n", "end": "</think>", "budget_end": "</think>\n", "triggers": ["</think>"]}
    with pytest.raises(InputError, match=re.escape(named)):
        qwen(labs).request(THINK, thinking_format={**strings, **custom})
    for field in ("thinking_extension_str", "thinking_end_str"):
        with pytest.raises(InputError, match=field):
            qwen(labs).request(THINK, thinking_extensions=1, **{field: "a</think>b</think>"})


def test_requests_bring_delimiters_of_their_own_up_to_a_number(labs):
    """Each takes a table of the vocabulary: a request beside others of another format, and no ninth set."""
    lab = labs({**STORY, "^": ["a"]}, CHECKPOINT, thinking_format="none")
    for i in range(8):
        own = {"opener": f"<{i}>", "end": "</think>", "budget_end": "</think>\n", "triggers": ["</think>"]}
        with pytest.raises(InputError, match="closing the thinking takes"):  # what is refused keeps none
            lab.engine.submit(lab.ids(f"<{i}>\n"), SamplingParams(thinking_format=own, max_tokens=1))
        own = {"opener": f"[{i}]", "end": "</think>", "budget_end": "</think>\n", "triggers": ["</think>"]}
        outputs = lab.engine.generate(
            [lab.ids(f"[{i}]>\n"), lab.ids("A")], [SamplingParams(thinking_format=own), SamplingParams()]
        )
        assert (outputs[0].outputs[0].reasoning, outputs[1].outputs[0].answer) == ("abc", "BC")
    with pytest.raises(InputError, match="one more than the 8"):
        lab.request(THINK, thinking_format="qwen3")
