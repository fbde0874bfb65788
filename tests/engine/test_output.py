"""OutputStream: what each token's text belongs to, what is held back, where stop strings cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.request import TokenKind
from engine.text.output import OutputStream, Piece, StopMatcher
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import ThinkingFormat, resolve_format
from tests.conformance.scripted import make_tokenizer, write_tokenizer

PLAIN, OPENER, REASONING, DELIMITER, ANSWER = TokenKind
STEPS = {
    "opener": "<|im_start|>think",
    "end": "<|im_start|>answer",
    "budget_end": "<|im_start|>answer",
    "triggers": ["<|im_start|>0"],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, make_tokenizer(["<think>", "</think>"]))
    return Tokenizer.load(directory)


class Driver:
    """Pushes text or ids of one kind; collects what every push returned."""

    def __init__(self, tokenizer: Tokenizer, form: str | dict = "s1", prompt: str = "", **options) -> None:
        self.tokenizer = tokenizer
        self.format = resolve_format(form, tokenizer)
        ids = tokenizer.encode(prompt, specials=True)
        self.stream = OutputStream(tokenizer, ids, self.format, eos_ids=tokenizer.eos_token_ids, **options)
        self.pieces: list[Piece] = []

    def push(self, text: str | bytes, kind: TokenKind, forced: bool = False) -> list[tuple[str, TokenKind]]:
        if isinstance(text, bytes):
            ids = [
                next(i for i in range(self.tokenizer.size) if self.tokenizer.token_bytes(i) == bytes([b])) for b in text
            ]
        else:
            ids = self.tokenizer.encode(text, specials=True)
        new = [piece for i in ids for piece in self.stream.push(i, kind, forced)]
        self.pieces += new
        return joined(new)

    def finish(self) -> list[tuple[str, TokenKind]]:
        new = self.stream.finish()
        self.pieces += new
        assert "".join(p.text for p in self.pieces) == self.stream.text
        return joined(new)


def joined(pieces: list[Piece]) -> list[tuple[str, TokenKind]]:
    """Neighbours of one kind as one."""
    result: list[tuple[str, TokenKind]] = []
    for piece in pieces:
        if result and result[-1][1] is piece.kind:
            result[-1] = (result[-1][0] + piece.text, piece.kind)
        else:
            result.append((piece.text, piece.kind))
    return result


def test_thinking_from_the_prompt_with_a_natural_end(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think")
    assert run.push("\na b\n", REASONING) == [("\na b\n", REASONING)]
    assert run.push("<|im_start|>", DELIMITER) == [("<|im_start|>", DELIMITER)]
    run.push("answer", DELIMITER, forced=True)
    run.push("\n42\n", ANSWER)
    assert run.push("<|im_end|>", ANSWER) == []
    run.finish()
    out = run.stream
    assert out.text == "\na b\n<|im_start|>answer\n42\n"
    assert (out.reasoning, out.answer) == ("a b", "42")


def test_forced_prefix_of_the_answer_is_part_of_it(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think")
    run.push("a", REASONING)
    run.push("\n<|im_start|>answer", DELIMITER, forced=True)
    run.push("\nFinal Answer:", ANSWER, forced=True)
    run.push(" 7", ANSWER)
    run.finish()
    assert (run.stream.reasoning, run.stream.answer) == ("a", "Final Answer: 7")
    assert [p.text for p in run.pieces if p.forced and p.kind is ANSWER] == [
        tokenizer.decode([i]) for i in tokenizer.encode("\nFinal Answer:")
    ]


def test_answer_without_thinking_is_the_text(tokenizer):
    run = Driver(tokenizer, form="none")
    run.push(" <think> hi\n", PLAIN)
    run.finish()
    assert (run.stream.text, run.stream.reasoning, run.stream.answer) == (" <think> hi\n", "", "<think> hi")


def test_nothing_generated_inside_thinking_has_no_answer(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think")
    run.push("<|im_start|>answer", DELIMITER, forced=True)
    run.finish()
    assert (run.stream.reasoning, run.stream.answer) == ("", "")


def test_eos_is_shown_only_with_ignore_eos(tokenizer):
    for ignore, text in ((False, "a"), (True, "a<|im_end|>b")):
        run = Driver(tokenizer, form="none", ignore_eos=ignore)
        run.push("a<|im_end|>", PLAIN)
        if ignore:
            run.push("b", PLAIN)
        run.finish()
        assert run.stream.text == text


def test_possible_opener_is_held_back_and_becomes_one(tokenizer):
    run = Driver(tokenizer)
    assert run.push("so ", PLAIN) == [("so ", PLAIN)]
    assert run.push("<|im_start|>", PLAIN) == []
    assert run.push("think", OPENER) == [("<|im_start|>think", OPENER)]
    assert run.push("x", REASONING) == [("x", REASONING)]
    run.finish()
    assert (run.stream.reasoning, run.stream.answer) == ("x", "")


def test_possible_opener_is_released_when_it_is_none(tokenizer):
    run = Driver(tokenizer)
    assert run.push("<|im_start|>", PLAIN) == []
    assert run.push("<|im_start|>", PLAIN) == [("<|im_start|>", PLAIN)]
    assert run.push("b", PLAIN) == [("<|im_start|>b", PLAIN)]
    assert run.push("<|im_start|>", PLAIN) == []
    assert run.finish() == [("<|im_start|>", PLAIN)]
    assert run.stream.answer == "<|im_start|><|im_start|>b<|im_start|>"


def test_opener_that_began_in_the_prompt(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>")
    assert run.push("think", OPENER) == [("think", OPENER)]
    run.push("x", REASONING)
    run.finish()
    assert (run.stream.text, run.stream.reasoning) == ("thinkx", "x")


def test_half_a_character_is_no_reasoning_and_ends_the_answer_as_it_ends_the_text(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think")
    assert run.push(b"a" + "🙂".encode()[:3], REASONING) == [("a", REASONING)]
    assert run.push("\n<|im_start|>answer", DELIMITER, forced=True) == [("\ufffd\n<|im_start|>answer", DELIMITER)]
    run.push("é".encode()[:1], ANSWER)
    assert run.finish() == [("\ufffd", ANSWER)]
    assert (run.stream.reasoning, run.stream.answer) == ("a", "\ufffd")
    assert run.stream.text == "a\ufffd\n<|im_start|>answer\ufffd"
    for cut in range(1, 4):  # the end of the response, with nothing behind it
        run = Driver(tokenizer, prompt="<|im_start|>think")
        run.push(b"\xffa" + "🙂".encode()[:cut], REASONING)
        assert run.finish() == [("\ufffd", DELIMITER)]
        assert (run.stream.text, run.stream.reasoning) == ("\ufffda\ufffd", "\ufffda"), (
            "what never was a character stays"
        )


def test_half_a_character_before_a_held_opener(tokenizer):
    run = Driver(tokenizer)
    run.push("é".encode()[:1], PLAIN)
    assert run.push("<|im_start|>", PLAIN) == []
    assert run.push("think", OPENER) == [("\ufffd", PLAIN), ("<|im_start|>think", OPENER)]


def test_trigger_of_several_tokens(tokenizer):
    run = Driver(tokenizer, STEPS, prompt="<|im_start|>think")
    assert run.push("a<|im_start|>", REASONING) == [("a", REASONING)]
    assert run.push("1", REASONING) == [("<|im_start|>1", REASONING)]
    assert run.push("<|im_start|>", REASONING) == []
    assert run.push("answer", DELIMITER, forced=True) == [("<|im_start|>answer", DELIMITER)]
    run.finish()
    assert run.stream.reasoning == "a<|im_start|>1"


def test_half_a_trigger_that_the_end_does_not_continue(tokenizer):
    run = Driver(tokenizer, STEPS, prompt="<|im_start|>think")
    run.push("a<|im_start|>", REASONING)
    assert run.push("\n<|im_start|>answer", DELIMITER, forced=True) == [
        ("<|im_start|>", REASONING),
        ("\n<|im_start|>answer", DELIMITER),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_stop_string_cuts_the_answer(tokenizer, chunk):
    run = Driver(tokenizer, form="none", stop=["END.", "ND!"])
    text = "xEENDE END. y"
    shown = ""
    for i in range(0, len(text), chunk):
        for piece in text[i : i + chunk]:
            shown += "".join(t for t, _ in run.push(piece, PLAIN))
    assert run.stream.stop_hit == "END."
    assert shown == run.stream.text == "xEENDE "
    assert run.push("more", PLAIN) == run.finish() == []


def test_what_may_begin_a_stop_string_is_held_back(tokenizer):
    run = Driver(tokenizer, form="none", stop=["abc"])
    assert [run.push(c, PLAIN) for c in "xaab"] == [[("x", PLAIN)], [], [("a", PLAIN)], []]
    assert run.push("d", PLAIN) == [("abd", PLAIN)]
    run.push("ab", PLAIN)
    assert run.finish() == [("ab", PLAIN)]
    assert run.stream.stop_hit is None


def test_stop_strings_do_not_apply_to_reasoning_nor_across_the_end(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think", stop=["stop", "answerX", "b"])
    run.push("stop a", REASONING)
    run.push("<|im_start|>answer", DELIMITER)
    run.push("Xstop", ANSWER)
    assert run.stream.stop_hit == "stop"
    assert (run.stream.reasoning, run.stream.answer) == ("stop a", "X")


def test_stop_strings_do_not_match_inside_or_across_forced_text(tokenizer):
    run = Driver(tokenizer, prompt="<|im_start|>think", stop=["Answer", ":1", "7:"])
    run.push("<|im_start|>answer", DELIMITER, forced=True)
    run.push("\nFinal Answer:", ANSWER, forced=True)
    assert run.push("1", ANSWER) == [("1", ANSWER)]
    run.push("7", ANSWER)
    run.push(":", ANSWER, forced=True)
    assert run.stream.stop_hit is None
    assert run.push("Answer", ANSWER) == []
    assert (run.stream.stop_hit, run.stream.answer) == ("Answer", "Final Answer:17:")


def test_nothing_follows_a_stop_string_that_is_found_when_its_kind_ends(tokenizer):
    run = Driver(tokenizer, stop=["_start|"])
    assert run.push("a<|im_start|>", PLAIN) == [("a", PLAIN)]
    assert run.push("b", REASONING) == [("<|im", PLAIN)], "held back as a possible opener, and then it was none"
    assert run.stream.stop_hit == "_start|"
    assert run.push("c", REASONING) == run.push("d", ANSWER) == run.finish() == []
    assert run.stream.text == "a<|im"


def test_stop_string_before_a_model_written_opener_is_released(tokenizer):
    run = Driver(tokenizer, stop=["ab"])
    assert run.push("a<|im_start|>", PLAIN) == []
    assert run.push("think", OPENER) == [("a", PLAIN), ("<|im_start|>think", OPENER)]
    assert run.push("b", REASONING) == [("b", REASONING)]


def test_min_tokens_delays_stop_strings(tokenizer):
    run = Driver(tokenizer, form="none", stop=["a"], min_tokens=2)
    for char in "aab":
        run.push(char, PLAIN)
    assert run.stream.stop_hit is None
    run.push("a", PLAIN)
    assert (run.stream.stop_hit, run.stream.text) == ("a", "aab")


def test_of_two_stops_the_one_that_ends_first_wins_then_the_longest():
    assert StopMatcher(["abcd", "bc"]).push("xabcd") == (4, "bc")
    assert StopMatcher(["c", "abc", "bc"]).push("xabcd") == (4, "abc")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(st.text("ab", max_size=3)))
def test_stop_matcher_equals_searching_the_whole(stops, chunks):
    matcher, whole, read, found = StopMatcher(stops), "".join(chunks), 0, None
    for chunk in chunks:
        if (hit := matcher.push(chunk)) is not None:
            found = (read + hit[0], hit[1])
            break
        read += len(chunk)
        assert whole[:read].endswith(matcher.tail)
        assert len(matcher.tail) == max(
            k for s in stops for k in range(len(s)) if k <= read and whole[:read].endswith(s[:k])
        )
    ends = [(end, -len(s), s) for s in stops for end in range(len(s), len(whole) + 1) if whole[:end].endswith(s)]
    want = min(ends, default=None)
    assert found == (None if want is None else (want[0], want[2]))


SPECIAL_WORDS = ["a", "é", "🙂", "\n", "<|im_start|>", "think", "answer", "0", "<think>"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pieces_are_the_whole_text(tokenizer, data):
    """Whatever the kinds and tokens: nothing lost, nothing twice, held text bounded, kinds in order."""
    form = resolve_format(data.draw(st.sampled_from(["s1", "qwen3", "none"])), tokenizer)
    byte_ids = st.integers(0, tokenizer.size - 1)
    words = st.sampled_from([i for w in SPECIAL_WORDS for i in tokenizer.encode(w, specials=True)])
    tokens = data.draw(st.lists(st.tuples(byte_ids | words, st.booleans()), max_size=40))
    stream = OutputStream(tokenizer, [], form, ignore_eos=True)
    pieces: list[Piece] = []
    for token, forced in tokens:
        pieces += stream.push(token, PLAIN, forced)
    pieces += stream.finish()
    assert "".join(p.text for p in pieces) == stream.text == tokenizer.decode(t for t, _ in tokens)
    assert all(p.text and p.kind is PLAIN for p in pieces)


def test_push_costs_the_same_at_any_length(tokenizer):
    """Nothing but the parts already shown grows: what is held stays bounded over 20,000 tokens."""
    stream = OutputStream(tokenizer, [], ThinkingFormat(), stop=["aaaaaaab"])
    token = tokenizer.encode("a")[0]
    shown = sum(len(p.text) for _ in range(20_000) for p in stream.push(token, PLAIN))
    assert shown == 20_000 - 7
    assert stream.finish()[0].text == "a" * 7


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_tokens_in_runs_become_the_text_of_tokens_one_by_one(tokenizer, data):
    """Delimiters, halves of delimiters and characters, EOS, forced text; cut into runs anywhere."""
    form = data.draw(st.sampled_from(["s1", "qwen3", STEPS]))
    texts = ["a", "b c", "\n", "<|im_start|>", "think", "answer", "0", "<think>", "</think>", "<|im_end|>", "é", "漢"]
    ids: list[int] = []
    for text in data.draw(st.lists(st.sampled_from(texts), max_size=40)):
        ids += tokenizer.encode(text, specials=True)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=len(ids), max_size=len(ids)))
    order = sorted(data.draw(st.lists(st.sampled_from([*TokenKind]), min_size=len(ids), max_size=len(ids))))
    forced = data.draw(st.lists(st.booleans() | st.just(False), min_size=len(ids), max_size=len(ids)))
    prompt = data.draw(st.sampled_from(["", "<|im_start|>", "<|im_start|>think"]))
    stop = data.draw(st.sampled_from([(), ("b c", "aa", "<|im_start|>"), ("\n", "éa")]))
    one, many = (Driver(tokenizer, form, prompt, stop=stop).stream for _ in range(2))
    single: list[Piece] = []
    runs: list[Piece] = []
    for token, kind, was_forced in zip(ids, order, forced, strict=True):
        single += one.push(token, kind, was_forced)
    at = 0
    for size in sizes:
        run = slice(at, at + size)
        runs += many.push_all(ids[run], [int(kind) for kind in order[run]], forced[run])
        at += size
    single, runs = single + one.finish(), runs + many.finish()
    assert joined(runs) == joined(single)
    ends = [piece.end for piece in runs]
    assert ends == sorted(ends) and all(0 < end <= len(ids) for end in ends)
    assert (many.text, many.reasoning, many.answer) == (one.text, one.reasoning, one.answer)
