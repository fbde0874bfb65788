"""The committed s1-nano: a Hugging Face checkpoint like any other, on which budgets and "Wait"s change the accuracy."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.families import check, problems
from engine import Engine, SamplingParams
from engine.model.config import ModelConfig
from tests.rounding import decoder_roundings, likely

MODEL = Path(__file__).parents[2] / "models" / "s1-nano"
COUNT = 64


@pytest.fixture(scope="module")
def engine():
    with Engine(str(MODEL), device="cpu", dtype="float32", max_num_seqs=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def questions():
    drawn = problems("heldout", 99)
    return [next(drawn) for _ in range(COUNT)]


def accuracy(engine, questions, budget: int, waits: int) -> float:
    params = SamplingParams(max_tokens=budget + 48, thinking_token_budget=budget, thinking_extensions=waits)
    outputs = [output.outputs[0] for output in engine.generate([q.prompt for q in questions], params)]
    for output in outputs:
        assert output.thinking.tokens <= budget and output.thinking.extensions <= waits
        assert output.finish_reason == "stop", output.text
    right = [check(q.family, q.prompt, o.answer) for q, o in zip(questions, outputs, strict=True)]
    return sum(right) / len(right)


def test_files():
    weights = MODEL / "model.safetensors"
    files = list(MODEL.glob("*.safetensors"))
    assert files and sum(file.stat().st_size for file in files) <= 8_000_000
    with safe_open(str(weights if weights.exists() else files[0]), "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"] and config["model_type"] == "qwen2"
    assert (MODEL / "generation_config.json").is_file() and (MODEL / "README.md").is_file()


def test_transformers_gives_the_same_logits(engine, questions):
    """Teacher forcing: the engine's log-probabilities of its own tokens are those of transformers, in float32."""
    reference = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    config = ModelConfig.load(MODEL)
    params = SamplingParams(max_tokens=160, thinking_token_budget=96, thinking_extensions=1, logprobs=3)
    for output in engine.generate([q.prompt for q in questions[:8]], params):
        sample = output.outputs[0]
        ids = torch.tensor([output.prompt_token_ids + sample.token_ids])
        with torch.no_grad():
            logits = reference(ids).logits[0]
        expected = logits.log_softmax(-1)
        # Both are wrong by as much, in the logit and in what it is compared with.
        off = 2 * 2 * likely(decoder_roundings(config, ids.shape[1]) + config.vocab_size) * logits.abs().max().item()
        for i, entry in enumerate(sample.logprobs):
            at = expected[len(output.prompt_token_ids) + i - 1]
            assert entry.logprob == pytest.approx(at[entry.token_id].item(), abs=off)
            for token, value in entry.top:
                assert value == pytest.approx(at[token].item(), abs=off)


def test_transformers_renders_the_same_prompt(engine, questions):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompt = questions[0].prompt
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    ids = ids + tokenizer.encode("<|im_start|>think", add_special_tokens=False)
    output = engine.generate([prompt], SamplingParams(max_tokens=32, thinking_token_budget=4))[0]
    assert output.prompt_token_ids == ids


def test_budgets_and_waits_change_the_accuracy(engine, questions):
    starved, ample = accuracy(engine, questions, 16, 0), accuracy(engine, questions, 512, 0)
    assert starved < 0.1 and 0.5 < ample < 0.8, (starved, ample)
    waited, often = accuracy(engine, questions, 1024, 4), accuracy(engine, questions, 1024, 8)
    assert waited > ample + 0.15 and waited > 0.8, (ample, waited)
    assert often > waited - 0.05, (waited, often)
