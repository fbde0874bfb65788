"""The real model's tokens are those of transformers, in float32, from the same dequantised weights."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine import Engine, SamplingParams
from engine.model.config import ModelConfig
from engine.model.gguf_config import config_values
from engine.model.gguf_header import read_header
from engine.model.gguf_tensors import GgufTensors
from engine.text.gguf_tokenizer import GgufTokenizer
from tests.real.prompts import CHATS, TEXTS
from tests.rounding import decoder_roundings, likely

NEW_TOKENS = 16
LENGTHS = (5, 2000)
"""Tokens of the shortest prompt, and about those of the longest."""


@pytest.fixture(scope="module")
def reference(model: Path) -> LlamaForCausalLM:
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config_values(model).items() if k != "architectures"}))
    with GgufTensors(model) as tensors:
        weights = {name: tensors.get_slice(name)[:] for name in read_header(model).tensors}
    llama.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, assign=True)
    llama.model.rotary_emb = type(llama.model.rotary_emb)(llama.config)  # what it computes, not on meta
    return llama.float().eval()


def assert_greedy(reference: LlamaForCausalLM, config: ModelConfig, prompt: list[int], text: list[int]) -> str | None:
    """Each token is the one that transformers would write behind those before it: so, from the first on, it writes
    them all. Where another has as large a logit, up to what rounding does to two of them, that is a tie: returned as a
    line with both. An equal tie is anybody's."""
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + text]), logits_to_keep=len(text) + 1).logits[0, :-1]
    best, tie = logits.max(1), None
    allowed = 4 * likely(decoder_roundings(config, len(prompt) + len(text))) * float(logits.abs().max())
    for at, (token, largest, theirs) in enumerate(zip(text, best.values, best.indices, strict=True)):
        if token != theirs:
            ours = float(logits[at, token])
            said = f"token {at}: {token} has {ours:.6f}, {int(theirs)} has {float(largest):.6f}; within {allowed:.2g}"
            assert float(largest) - ours <= allowed, f"no tie, {said}"
            tie = said
    return tie


def test_twenty_prompts(engine: Engine, model: Path, reference: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]):
    """All in one batch; then the short ones alone, which must be the same."""
    params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True, thinking_format="none")
    prompts = [{"text": text} for text in TEXTS] + [{"messages": chat} for chat in CHATS]
    outputs, config = engine.generate(prompts, params), ModelConfig.load(model)
    sizes = [len(output.prompt_token_ids) for output in outputs]
    assert len(outputs) == 20 and min(sizes) == LENGTHS[0] and 0.9 < max(sizes) / LENGTHS[1] < 1.1, sorted(sizes)
    ties = []
    for number, output in enumerate(outputs):
        tie = assert_greedy(reference, config, output.prompt_token_ids, output.outputs[0].token_ids)
        ties += [f"prompt {number}: {tie}"] if tie else []
    with capsys.disabled():
        print(*ties, sep="\n", end="\n" if ties else "")
    assert len(ties) <= 2
    alone = engine.generate(prompts[:3], params)
    for output, other in zip(outputs, alone, strict=False):
        assert_greedy(reference, config, other.prompt_token_ids, other.outputs[0].token_ids)
        assert output.prompt_token_ids == other.prompt_token_ids


def test_chat_templates_and_history(engine: Engine, model: Path, tmp_path: Path):
    """Rendered by transformers' own template engine; the default system prompt is the template's."""
    text = GgufTokenizer.load(model)
    (tmp_path / "tokenizer.json").write_text(json.dumps(text.tokenizer_json))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=text.chat_template)
    params = SamplingParams(max_tokens=12, thinking_format="none")
    outputs = engine.generate([{"messages": chat} for chat in CHATS], params)
    for chat, output in zip(CHATS, outputs, strict=True):
        rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert output.prompt_token_ids == theirs.encode(rendered, add_special_tokens=False)
    assert "Paris" in outputs[0].outputs[0].text
    assert engine.tokenizer.eos_token_ids == (2,) and engine.tokenizer.end_warning() is None


@pytest.mark.slow
def test_transformers_reads_the_same_from_the_file(model: Path):
    """Its own reader of GGUF: every weight to the last bit, and the tokenizer that it makes of it, but for the digits:
    it leaves out that they stand alone, which the file's pre-tokenizer `smollm` says and the published one does."""
    theirs = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).state_dict()
    with GgufTensors(model) as tensors:
        for name in read_header(model).tensors:
            assert torch.equal(tensors.get_slice(name)[:], theirs[name]), name
    tokenizer, own = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name), GgufTokenizer.load(model)
    assert tokenizer.chat_template == own.chat_template
    alone = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(alone)
    with Engine(model, device="cpu", load_format="dummy", kv_cache_tokens=64) as engine:
        for prompt in TEXTS:
            assert engine.tokenizer.encode(prompt) == tokenizer.encode(prompt, add_special_tokens=False)


@pytest.mark.slow
def test_the_whole_context(engine: Engine, model: Path, reference: LlamaForCausalLM):
    """Up to the last of its 8,192 positions, in chunks."""
    ids = engine.tokenizer.encode(" ".join(TEXTS) * 4)[: 8192 - NEW_TOKENS]
    output = engine.generate([ids], SamplingParams(max_tokens=999, ignore_eos=True, thinking_format="none"))[0]
    assert len(ids) == 8192 - NEW_TOKENS and len(output.outputs[0].token_ids) == NEW_TOKENS
    assert_greedy(reference, ModelConfig.load(model), ids, output.outputs[0].token_ids)
