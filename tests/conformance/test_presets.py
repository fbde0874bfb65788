"""Every preset whose delimiters are plain text here: natural ends, budgets and extensions, as models of its family
write them (rules 36 and 37)."""

import pytest

from engine import SamplingParams
from engine.request import TokenKind
from engine.thinking.formats import PRESETS
from tests.conformance.lab import IM_END, path
from tests.conformance.scripted import WORDS, make_tokenizer, vocabulary_of

SPECIAL = ("s1", "none")
FAMILIES = ("qwen3", "deepseek_r1", "am_thinking", "sky_t1", "exaone", "magistral")


def test_none_is_left_out():
    assert {*FAMILIES, *SPECIAL} == PRESETS.keys()


@pytest.fixture(params=FAMILIES)
def family(request, labs):
    """(the preset's strings, an engine whose model thinks abc, ends in two tokens, and answers ABC)."""
    strings = PRESETS[request.param]
    (trigger,) = strings.triggers
    first, rest = trigger[:2], trigger[2:]
    vocabulary = vocabulary_of(make_tokenizer((), (*WORDS, first, rest)))
    closed = vocabulary.bytes_of[vocabulary.encode(strings.budget_end)[-1]]
    script = {
        **path("Z", "a", "b", "c", first, rest, "A", "B", "C", IM_END),
        **path("Wait", "p", "q", first),
        "\n": ["n", "o", "^"],
        closed: ["A", "B", "C"],
    }
    return strings, labs(script, {"words": (first, rest)}, thinking_format=request.param)


def test_a_natural_end(family):
    strings, lab = family
    done = lab.request(strings.opener + "Z").outputs[0]
    assert (done.reasoning, done.answer, done.text) == ("abc", "ABC", f"abc{strings.triggers[0]}ABC")
    assert (done.thinking.tokens, done.thinking.stop_reason, done.forced) == (4, "natural", [])


def test_a_budget(family):
    strings, lab = family
    done = lab.request(strings.opener + "Z", thinking_token_budget=2).outputs[0]
    assert (done.reasoning, done.answer, done.text) == ("a", "ABC", f"a\n{strings.budget_end}ABC")
    assert (done.thinking.tokens, done.thinking.stop_reason) == (2, "budget")


@pytest.mark.parametrize("extensions", [1, 2])
def test_extensions(family, extensions):
    """The delimiter that was drawn first is nowhere; the last one ends thinking."""
    strings, lab = family
    done = lab.request(strings.opener + "Z", thinking_extensions=extensions).outputs[0]
    assert done.text == "abc" + "Waitpq" * extensions + strings.triggers[0] + "ABC"
    assert (done.reasoning, done.answer) == ("abc" + "Waitpq" * extensions, "ABC")
    assert (done.thinking.extensions, done.thinking.stop_reason) == (extensions, "natural")
    assert done.thinking.tokens == 4 + 3 * extensions


def test_no_delimiter_is_streamed_as_text(family):
    strings, lab = family
    for params in (SamplingParams(), SamplingParams(thinking_token_budget=3), SamplingParams(thinking_extensions=1)):
        deltas = list(lab.engine.stream(lab.ids(strings.opener + "Z"), params))
        text = {kind: "".join(d.text for d in deltas if d.kind is kind) for kind in TokenKind}
        assert set(text[TokenKind.REASONING].strip()) <= set("abcWaitpq"), text
        assert text[TokenKind.ANSWER].strip().endswith("ABC")
