"""Delimiters of plain text on real vocabularies: automaton, machine and stream hold together at every cut."""

import itertools
import json
import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.request import SamplingParams, TokenKind
from engine.text.spelled import SpelledStream
from engine.text.tokenizer import Tokenizer as OurTokenizer
from engine.thinking.automaton import TokenBytes, next_states
from engine.thinking.formats import PRESETS
from engine.thinking.plan import make_plan, resolve_format
from engine.thinking.reference_machine import Machine
from kernels.thinking import Finish, Phase, Stop
from kernels.thinking_tables import HIT, HIT_INSIDE, traits_of
from tests.checkpoints import QWEN_TOKENIZER

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPELLED = ("qwen3", "sky_t1", "exaone", "magistral", "am_thinking")


def trained(corpus: list[str]) -> OurTokenizer:
    """A byte-level BPE with Llama's regular expression, trained on text that has the delimiters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|eot|>"])
    return OurTokenizer(json.loads(tokenizer.to_str()), (tokenizer.token_to_id("<|eot|>"),))


@pytest.fixture(scope="module", params=["qwen2.5", "llama"])
def tokenizer(request) -> OurTokenizer:
    if request.param == "qwen2.5":
        return OurTokenizer.load(QWEN_TOKENIZER)
    every = [s for name in SPELLED for s in (PRESETS[name].opener, PRESETS[name].budget_end)]
    return trained([f"so {a}it is.\n\n{b}yes, x<y" for a in every for b in every])


@pytest.fixture(scope="module")
def tokens(tokenizer) -> TokenBytes:
    return TokenBytes(tokenizer.size, tokenizer.token_bytes)


def test_the_table_is_that_of_a_search_in_the_text(tokenizer, tokens):
    """Each entry against the definition, on random tokens."""
    patterns = [b"</think>", b"<|end_of_thought|>", b"[/THINK]"]
    rows = next_states(patterns, tokens)
    names, chance = [b""], random.Random(3)
    for pattern in patterns:
        for n in range(1, len(pattern) + 1):
            if pattern[:n] not in names:
                names.append(pattern[:n])
    assert rows.shape == (len(names), tokenizer.size)
    odd = np.flatnonzero((rows != rows[0]).any(0) | (rows[0] != 0)).tolist()
    for token in [*odd, *chance.sample(range(tokenizer.size), 100)]:
        data = tokenizer.token_bytes(token)
        for state, name in enumerate(names):
            if name in patterns:
                continue
            text = name + data
            ends = [(text.index(p) + len(p), p) for p in patterns if p in text]
            if ends:
                end, p = min(ends)
                want = HIT if end - len(p) < len(name) else HIT_INSIDE
            else:
                part = max((n for n in names if text.endswith(n)), key=len)
                want = 2 * names.index(part) + (0 < len(part) <= len(data))
            assert rows[state, token] == want, (token, data, name)


def spellings(tokenizer: OurTokenizer, text: str, chance: random.Random) -> list[int]:
    """Tokens that decode to `text`, cut at random."""
    ids: list[int] = []
    while text:
        size = chance.choice([1, 2, 3, 5, 8, len(text)])
        piece, text = text[:size], text[size:]
        ids += tokenizer.encode(piece)
    return ids


@pytest.mark.parametrize("preset", SPELLED)
def test_reasoning_and_answer_at_every_cut(tokenizer, tokens, preset):
    """Rules 31 and 36: text, reasoning and answer are those of a search in the whole text, T that of whole tokens."""
    format, strings = resolve_format(preset, tokenizer), PRESETS[preset]
    assert format.text is not None
    rows = {
        Phase.THINK: next_states([t.encode() for t in strings.triggers], tokens),
        Phase.PLAIN: next_states([strings.opener.encode()], tokens),
    }
    traits = [traits_of(tokenizer.token_bytes(i)) if i < 400 else 0 for i in range(tokenizer.size)]
    chance, eos = random.Random(5), tokenizer.eos_token_ids
    parts = ["x<", "a", "</", strings.end[:3], strings.end[:-1], " the ", "é", "\n", "<y", strings.end[1:]]
    prompt = [*tokenizer.encode("Q"), *format.opener]
    for trial in range(60):
        reasoning = "".join(chance.choices(parts, k=chance.randrange(5))) + chance.choice(["", "foo<", "."])
        if strings.end in reasoning:
            continue
        answer = "\n\n" * (trial % 2) + "So: 4"
        ids = spellings(tokenizer, reasoning + strings.end + answer, chance)
        extended = trial % 3 == 0
        params = SamplingParams(max_tokens=500, thinking_extensions=int(extended), thinking_extension_str="Wait")
        plan = make_plan(params, format, prompt, 4000, tokenizer, eos)
        machine = Machine(plan, prompt, eos, traits, rows)
        stream = SpelledStream(tokenizer, prompt, format, format.text, eos_ids=eos)
        pieces, script = [], iter(ids)
        kept: list[int] = []
        while machine.finish is Finish.RUNNING:
            draw = 0 if machine.forced is not None else next(script, None)
            if draw is None:
                break
            commit = machine.step(draw, tokenizer.encode("m")[0])
            if commit.taken:
                stream.take_back(commit.taken)
                del kept[-commit.taken :]
                script = iter(spellings(tokenizer, "m" + strings.end + answer, chance))
            if commit.token is not None:
                kept.append(commit.token)
                pieces += stream.push(commit.token, commit.kind, commit.forced)
        pieces += stream.finish()
        assert tokenizer.decode(kept) == stream.text == "".join(p.text for p in pieces)
        assert machine.stop_reason is Stop.NATURAL, (reasoning, ids)
        assert strings.end not in stream.reasoning
        shown = {kind: "".join(p.text for p in pieces if p.kind is kind) for kind in TokenKind}
        if not extended:
            assert (shown[TokenKind.REASONING], stream.answer) == (reasoning, answer.strip())
            assert shown[TokenKind.DELIMITER] == strings.end and machine.extensions_used == 0
            whole = list(itertools.accumulate((tokenizer.token_bytes(t) for t in ids), initial=b""))
            assert machine.thinking == sum(len(data) <= len(reasoning.encode()) for data in whole[1:])
