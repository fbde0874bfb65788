"""The real model in everything that the engine does with one: streams, formats, samples, 8 bits, shared prefixes."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, RequestOutput, SamplingParams
from engine.thinking.formats import PRESETS

PLAIN = SamplingParams(max_tokens=24, thinking_format="none")
QUESTION = "What is the capital of France?"
FORMATS = tuple(name for name in PRESETS if name != "none")
"""What is forced upon it."""
PREAMBLE = "You are an assistant of a bicycle shop. " + "It opens at nine and closes at six. " * 16


def ids_of(outputs: list[RequestOutput]) -> list[list[int]]:
    return [sample.token_ids for output in outputs for sample in output.outputs]


@pytest.mark.parametrize(
    "start", ["🎉🎊🎈🎉🎊🎈🎉🎊🎈🎉", "东京 北京 上海 东京 北京 上海 东京 北京", "e\u0301 👩‍👩‍👧 👩‍👩‍👧 👩‍👩‍👧"]
)
def test_streams_of_emoji_and_cjk(engine: Engine, start: str):
    """Characters of several tokens come whole, and the pieces are the text."""
    handle = engine.submit({"text": start}, SamplingParams(max_tokens=32, ignore_eos=True, thinking_format="none"))
    pieces = [delta.text for delta in handle]
    text = handle.result().outputs[0].text
    assert "".join(pieces) == text == engine.tokenizer.decode(handle.result().outputs[0].token_ids)
    assert any(ord(char) > 0x2E80 for char in text), text
    assert len(pieces) < 32, "no character took more than one token: the case shows nothing"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_forced_upon_it(engine: Engine, name: str):
    """A budget ends the thinking, a Wait goes on with it, and no delimiter is in what is shown."""
    params = SamplingParams(
        max_tokens=64, thinking_format=name, thinking_token_budget=32, min_thinking_tokens=24, thinking_extensions=1
    )
    strings = PRESETS[name]
    for output in engine.generate([QUESTION, "Is 17 prime?"], params):
        sample = output.outputs[0]
        assert 24 <= sample.thinking.tokens <= 32 and sample.thinking.forced_tokens and sample.reasoning
        for shown in (sample.reasoning, sample.answer):
            assert not any(text in shown for text in (strings.opener, strings.end, *strings.triggers))
        if sample.thinking.stop_reason == "budget":
            assert strings.budget_end in sample.text and sample.answer.strip()


def test_samples_follow_their_seeds(engine: Engine):
    """Eight of one prompt: all different, the same again, and in other company."""
    params = SamplingParams(max_tokens=12, temperature=1.0, n=8, seed=11, thinking_format="none")
    once = ids_of(engine.generate(["Tell me a story."], params))
    assert len({tuple(ids) for ids in once}) == 8
    again = engine.generate(["Tell me a joke.", "Tell me a story."], params)
    assert ids_of(again[1:]) == once
    assert ids_of(engine.generate(["Tell me a story."], replace(params, seed=12))) != once


def test_a_shared_preamble_is_computed_once(engine: Engine, model: Path):
    """With the prefix cache and without it: the same tokens."""
    chats = [
        {"messages": [{"role": "system", "content": PREAMBLE}, {"role": "user", "content": question}]}
        for question in ("When do you open?", "When do you close?", "Are you open at noon?")
    ]
    shared = [engine.generate([chat], PLAIN)[0] for chat in chats]
    first, *others = (output.prompt_token_ids for output in shared)
    parts = [next(at for at, (a, b) in enumerate(zip(first, ids, strict=False)) if a != b) for ids in others]
    assert shared[0].usage.cached_tokens < 20, "no more than the first words of what other tests asked"
    assert min(parts) > 128, "up to where the questions part"
    assert all(output.usage.cached_tokens >= part for output, part in zip(shared[1:], parts, strict=True))
    with Engine(
        model, device="cpu", dtype="float32", max_num_seqs=4, kv_cache_tokens=2048, enable_prefix_caching=False
    ) as other:
        assert ids_of(other.generate(chats, PLAIN)) == ids_of(shared)


@pytest.mark.parametrize("options", [{"quantization": "int8"}, {"kv_cache_dtype": "fp8"}])
def test_eight_bits_still_know_the_answer(model: Path, options: dict[str, str]):
    with Engine(model, device="cpu", dtype="float32", max_num_seqs=2, kv_cache_tokens=512, **options) as engine:
        output = engine.generate([QUESTION], PLAIN)[0].outputs[0]
    assert "Paris" in output.text and output.finish_reason == "stop"
