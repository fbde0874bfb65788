"""Random requests for the hypothesis tests: formats, parameters and prompts over one small alphabet."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from engine.request import SamplingParams
from tests.conformance.scripted import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    THINK_CLOSE,
    THINK_OPEN,
    Vocabulary,
    make_tokenizer,
    vocabulary_of,
)
from tests.conformance.simulate import Format, Texts

SPECIALS = (THINK_OPEN, THINK_CLOSE)
_QWEN3 = {"opener": "<think>\n", "end": "</think>", "budget_end": "</think>\n\n", "triggers": ["</think>"]}
FORMATS: dict[str, Mapping[str, Any]] = {
    "s1": {
        "opener": "<|im_start|>think",
        "end": "<|im_start|>answer",
        "budget_end": "<|im_start|>answer\nFinal Answer:",
        "triggers": ["<|im_start|>"],
    },
    "qwen3": _QWEN3,
    "deepseek_r1": _QWEN3,
    "step": {
        "opener": "<|im_start|>think",
        "end": "<|im_start|>answer",
        "budget_end": "<|im_start|>answer\nFinal Answer:",
        "triggers": ["<|im_start|>0", "<|im_start|>answer"],
    },
    "overlapping": {
        "opener": "<|im_start|><|im_start|>think",
        "end": "</think></think>answer",
        "budget_end": "</think></think>answer:",
        "triggers": ["</think></think>0", "</think>1"],
    },
}
"""What each name means, written out; `step` and `overlapping` reach the engine as custom formats."""

ALPHABET: tuple[str | bytes, ...] = (
    "a",
    "b",
    "c",
    "\n",
    ".\n\n",
    b"\xe2",
    b"\x82",
    b"\xac",
    "think",
    "answer",
    "0",
    "1",
    "Wait",
    ":",
    IM_START,
    IM_END,
    END_OF_TEXT,
    THINK_OPEN,
    THINK_CLOSE,
)
BANNABLE = tuple(name for name in ALPHABET if name not in ("a", "b", "c"))
LOUD: tuple[str | bytes, ...] = (*[IM_START] * 3, *[THINK_CLOSE] * 3, IM_END, "0", "1", "answer", "think", "\n")


def encode_format(name: str, vocabulary: Vocabulary) -> Format | None:
    if name == "none":
        return None
    text = FORMATS[name]
    encode = vocabulary.encode
    return Format(
        encode(text["opener"]), encode(text["end"]), encode(text["budget_end"]), tuple(map(encode, text["triggers"]))
    )


@dataclass(frozen=True)
class Case:
    """One request and what the oracle needs to follow it."""

    format: str
    params: SamplingParams
    prompt: tuple[int, ...]

    def texts(self, vocabulary: Vocabulary) -> Texts:
        end = self.params.thinking_end_str
        return Texts(
            vocabulary["\n"],
            vocabulary.eos,
            vocabulary.bytes_of,
            vocabulary.encode(self.params.thinking_extension_str),
            None if end is None else vocabulary.encode(end),
        )


@st.composite
def cases(draw: st.DrawFn, vocabulary: Vocabulary, formats: Sequence[str] = ("s1", "qwen3", "step", "overlapping")):
    """A request that the engine must admit where the context is 64 tokens or more."""
    name = draw(st.sampled_from(formats))
    fmt = encode_format(name, vocabulary)
    several = fmt is not None and any(len(t) > 1 for t in fmt.triggers)
    end = None if fmt is None else FORMATS[name]["end"]
    small = st.integers(0, 6)
    budget = draw(st.none() | st.integers(0, 24))
    knobs: dict[str, Any] = {}
    if fmt is not None:
        knobs = {
            "thinking_token_budget": budget,
            "min_thinking_tokens": min(draw(small), 99 if budget is None else budget),
            "thinking_extensions": 0 if several else draw(st.integers(0, 3)),
            "thinking_extension_str": draw(st.sampled_from(["Wait", "Wait", "", "Wait a\n", "ab so"])),
            "thinking_end_str": draw(st.sampled_from([None, None, None, f"{end}", f"c.\n{end}:\n", f"{end}Final"])),
            "thinking_grace_tokens": draw(st.sampled_from([0, 0, 1, 5])),
            "thinking_budget_action": draw(st.sampled_from(["force_end"] * 4 + ["truncate"])),
            "thinking_eos_policy": draw(st.sampled_from(["end", "end", "stop"])),
            "min_answer_tokens": draw(st.integers(0, 3)),
            "answer_reserve_tokens": draw(st.integers(0, 8)),
        }
    prompt = draw(st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=4))
    if fmt is not None and draw(st.integers(0, 5)) < 5:
        prompt += [vocabulary.bytes_of[t] for t in fmt.opener]
        tail = st.sampled_from(ALPHABET if draw(st.integers(0, 4)) == 0 else ("a", ".\n\n", IM_START, THINK_CLOSE, "0"))
        prompt += draw(st.lists(tail, max_size=draw(st.sampled_from([0, 0, 3, 8]))))
    closer = "" if fmt is None else knobs["thinking_end_str"] or FORMATS[name]["budget_end"]
    need = 1 + len(vocabulary.encode(closer)) + knobs.get("answer_reserve_tokens", 0)
    params = SamplingParams(
        max_tokens=need + draw(st.integers(0, 40)),
        min_tokens=draw(st.sampled_from([0, 0, 0, 7])),
        ignore_eos=draw(st.integers(0, 7)) == 0,
        banned_token_ids=tuple(vocabulary.tokens(*draw(st.lists(st.sampled_from(BANNABLE), max_size=4)))),
        stop_token_ids=draw(st.sampled_from([(), (), (vocabulary["b"],), (vocabulary[IM_START], vocabulary["0"])])),
        **knobs,
    )
    return Case(name, params, tuple(vocabulary.tokens(*prompt)))


@st.composite
def tables(draw: st.DrawFn) -> dict[str | bytes, list[str | bytes]]:
    """A random transition table over the alphabet: two loud choices at most, then tokens that nothing excludes."""
    table = {}
    quiet = [name for name in ALPHABET if name not in LOUD]
    for name in ALPHABET:
        loud = draw(st.lists(st.sampled_from(LOUD), max_size=2, unique=True))
        first = draw(st.lists(st.sampled_from(quiet), min_size=3, max_size=3, unique=True))
        table[name] = (first[:1] + loud + first[1:]) if draw(st.integers(0, 2)) == 0 else loud + first
    return table


VOCABULARY = vocabulary_of(make_tokenizer(SPECIALS))
CONTEXT = 96
ROOMY = {"max_model_len": CONTEXT, "kv_cache_tokens": 4096, "max_num_seqs": 64}
EVERY = ("s1", "qwen3", "step", "overlapping", "deepseek_r1", "none")


def random_table(seed: int) -> dict:
    """What follows each token of the alphabet: often a trigger, an EOS or part of a delimiter; never a dead end."""
    chance = random.Random(seed)
    table = {}
    for name in (*ALPHABET, "Final", " Answer", " so"):
        first = [chance.choice(LOUD)] if chance.random() < 0.4 else []
        table[name] = list(dict.fromkeys([*first, *chance.sample(ALPHABET, len(ALPHABET))]))
    return table
