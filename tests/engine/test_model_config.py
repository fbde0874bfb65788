"""config.json of either major version of transformers, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from engine.errors import InputError
from engine.model.config import ModelConfig
from engine.model.rope import Rope

BASE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


def parse(**changes: Any) -> ModelConfig:
    return ModelConfig.parse({**BASE, **changes}, "config.json")


def test_both_versions_say_the_same() -> None:
    older = parse(
        rope_theta=1e6,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        torch_dtype="bfloat16",
        sliding_window=4096,
        use_sliding_window=False,
        max_window_layers=1,
    )
    newer = parse(rope_parameters={"rope_theta": 1e6, **YARN}, dtype="bfloat16", layer_types=["full_attention"] * 2)
    assert older == newer
    assert older.dtype == torch.bfloat16
    assert older.rope == Rope(theta=1e6, kind="yarn", factor=4.0, original_max_position_embeddings=128)


def test_plain_fields() -> None:
    config = parse(rope_theta=5e5)
    assert (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads) == (64, 2, 4, 2)
    assert (config.head_dim, config.intermediate_size, config.vocab_size) == (16, 96, 300)
    assert config.rms_norm_eps == 1e-5 and config.tie_word_embeddings and config.attention_bias
    assert config.rope == Rope(theta=5e5) and config.max_position_embeddings == 512
    assert config.dtype == torch.float32
    assert parse(head_dim=32).head_dim == 32
    assert parse(head_dim=None).head_dim == 16
    assert parse(num_key_value_heads=None).num_kv_heads == 4


def test_yarn_extends_the_context() -> None:
    qwen = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert parse(max_position_embeddings=32768, rope_scaling=qwen).context_length == 131072
    assert parse(max_position_embeddings=131072, rope_scaling=qwen).context_length == 131072
    assert parse(rope_scaling={"type": "linear", "factor": 4.0}).context_length == 512
    assert parse().context_length == 512


def test_number_of_parameters_is_that_of_qwen_32b() -> None:
    config = parse(
        hidden_size=5120,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        intermediate_size=27648,
        vocab_size=152064,
        tie_word_embeddings=False,
    )
    assert config.num_parameters == 32_763_876_352


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.5},
        YARN,
        {**YARN, "factor": 2.0, "attention_factor": 1.25},
        {**YARN, "beta_fast": 20.0, "beta_slow": 2.0},
        {**YARN, "beta_fast": 20.0, "beta_slow": 3.0, "truncate": False},
        {**YARN, "mscale": 0.8, "mscale_all_dim": 1.1},
        {"rope_type": "yarn", "factor": 4.0},
        LLAMA3,
        {**LLAMA3, "factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0},
        {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 512},
    ],
)
@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("head_dim", [16, 128])
def test_cos_and_sin_equal_transformers(rope: dict[str, Any], theta: float, head_dim: int, tmp_path: Path) -> None:
    values = {**BASE, "head_dim": head_dim, "rope_parameters": {**rope, "rope_theta": theta}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    embedding = Qwen2RotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    cos, sin = embedding(torch.zeros(1), torch.arange(2048)[None])
    ours = ModelConfig.load(tmp_path).rope.cos_sin(2048, head_dim, torch.device("cpu"))
    half = head_dim // 2
    assert torch.equal(ours[:, :half], cos[0, :, :half])
    assert torch.equal(ours[:, half:], sin[0, :, :half])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"architectures is \['GPT2LMHeadModel'\]; supported are Qwen2ForC"),
        ({"architectures": None, "model_type": "gpt2"}, "architectures is None"),
        ({"architectures": [["Qwen2ForCausalLM"]]}, r"architectures is \[\['Qwen2ForCausalLM'\]\]"),
        ({**LLAMA, "attention_bias": True}, "attention_bias is true, which is not supported for llama"),
        ({**LLAMA, "mlp_bias": True}, "mlp_bias is true"),
        ({**MISTRAL, "sliding_window": 64}, r"attention \(64 tokens\) is in use and not supported; set sliding_window"),
        ({**MISTRAL, "sliding_window": "4k"}, "sliding_window is '4k'"),
        ({"rope_scaling": {**LLAMA3, "factor": None}}, "RoPE kind llama3 has no factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "RoPE kind llama3 has no low_freq_factor"),
        (
            {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor is 1.0; give a number above low_freq",
        ),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 1.0}}, "RoPE kind llama3 does not read 'beta_fast'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported is 'silu'"),
        ({"quantization_config": {"quant_method": "awq"}}, r"weights are quantized \(awq\)"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, r"sliding-window attention \(64"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
            "set use_sliding_window to false",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; give a whole number from 1 to 1,024"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "hidden_size 66 is no multiple of num_attention_heads 4; add head_dim"),
        ({"head_dim": 15}, "head_dim is 15; RoPE rotates pairs"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; give true or false"),
        ({"torch_dtype": "float64"}, "torch_dtype is 'float64'; supported are float32"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE kind is 'dynamic'; supported are default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "RoPE kind linear has no factor"),
        ({"rope_scaling": {"type": "yarn", "factor": -4}}, "factor is -4; give a number from 1e-06 to"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}}, "does not read 'beta_fast'"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta is 'big'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]; give an object"),
        ({"rope_scaling": {"type": ["yarn"]}}, r"RoPE kind is \['yarn'\]"),
        ({"quantization_config": "gptq"}, r"weights are quantized \('gptq'\)"),
        ({"use_sliding_window": True, "sliding_window": 64, "layer_types": 5}, "layer_types is 5; give a list"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": "all"}, "max_window_layers is 'all'"),
        ({"dtype": ["float32"]}, r"dtype is \['float32'\]"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^config.json: .*{message}") as caught:
        parse(**changes)
    assert "\n" not in str(caught.value)


def test_what_an_architecture_implies() -> None:
    qwen2, qwen3, llama, mistral = (parse(**BASE | kind) for kind in ({}, QWEN3, LLAMA, MISTRAL))
    assert [c.attention_bias for c in (qwen2, qwen3, llama, mistral)] == [True, False, False, False]
    assert [c.qk_norm for c in (qwen2, qwen3, llama, mistral)] == [False, True, False, False]
    assert [c.head_dim for c in (qwen2, qwen3, llama, mistral)] == [16, 128, 16, 16]
    assert parse(architectures=None, model_type="qwen3").qk_norm


def test_null_is_as_if_it_were_not_there() -> None:
    names = (
        "tie_word_embeddings",
        "attention_bias",
        "rms_norm_eps",
        "hidden_act",
        "use_sliding_window",
        "rope_scaling",
    )
    assert parse(**dict.fromkeys(names)) == parse(tie_word_embeddings=False, rms_norm_eps=1e-6)
    assert parse(**LLAMA, mlp_bias=None) == parse(**LLAMA)


def test_a_dtype_may_be_written_as_torch_prints_it() -> None:
    assert parse(torch_dtype="torch.bfloat16").dtype is torch.bfloat16


def test_sliding_window_that_no_layer_uses_is_accepted() -> None:
    assert parse(**MISTRAL, sliding_window=512).num_layers == 2
    assert parse(**LLAMA, sliding_window=64).num_layers == 2  # which a Llama does not read
    assert parse(use_sliding_window=True, sliding_window=64, max_window_layers=2).num_layers == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json is missing; give a checkpoint directory"),
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_files_that_are_no_config(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        ModelConfig.load(tmp_path)


def test_dtype_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BASE, "torch_dtype": "bfloat16"}))
    assert ModelConfig.load(tmp_path).dtype == torch.bfloat16
    assert ModelConfig.load(tmp_path, "float16").dtype == torch.float16
