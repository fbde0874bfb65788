"""The config.json that a GGUF file's metadata amounts to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.errors import InputError, is_number, is_whole, refuse, shown
from engine.model.gguf_header import GgufTensor, Header, of_every_layer, read_header
from engine.model.gguf_tensors import GgufTensors
from engine.model.rope import Rope
from kernels.native import library as native

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Mistral's files call themselves llama."""
FREQUENCIES = "rope_freqs.weight"
"""How much slower each pair turns than its base frequency says, [head_dim / 2]."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3 that scales its RoPE; their files keep the quotients of the frequencies alone."""


class _Key(NamedTuple):
    """A key of the metadata behind the architecture's name, and its place in config.json."""

    gguf: str
    config: str
    needed: bool = True


_KEYS = (
    _Key("embedding_length", "hidden_size"),
    _Key("block_count", "num_hidden_layers"),
    _Key("feed_forward_length", "intermediate_size"),
    _Key("attention.head_count", "num_attention_heads"),
    _Key("attention.head_count_kv", "num_key_value_heads", needed=False),
    _Key("attention.key_length", "head_dim", needed=False),
    _Key("context_length", "max_position_embeddings"),
    _Key("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    _Key("rope.freq_base", "rope_theta", needed=False),
)
_SCALING = (
    _Key("rope.scaling.factor", "factor"),
    _Key("rope.scaling.original_context_length", "original_max_position_embeddings", needed=False),
    _Key("rope.scaling.yarn_beta_fast", "beta_fast", needed=False),
    _Key("rope.scaling.yarn_beta_slow", "beta_slow", needed=False),
)


def config_values(path: Path, device: str = "auto") -> dict[str, Any]:
    """What config.json would say. The dtype is the widest that `device` (as in EngineConfig) computes without loss of
    speed: float32 on a processor without bfloat16 instructions and on a card that imitates them, elsewhere bfloat16.

    Raises InputError, naming the file and the key, for what is missing, and for what the decoder does not have.
    """
    header = read_header(path)
    values, architecture = header.values, _architecture(path, header.values)
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        "attention_bias": architecture == "qwen2",
        "dtype": "bfloat16" if _has_bfloat16(device) else "float32",
        "tie_word_embeddings": "lm_head.weight" not in header.tensors,
    }
    for name, value in _read(path, values, architecture, _KEYS).items():
        config[name] = of_every_layer(value) if name == "num_key_value_heads" else value
    embedding = header.tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise InputError(f"{path}: token_embd.weight is missing; it is no whole model")
    config["vocab_size"] = embedding.shape[0]
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if "head_dim" not in config and is_whole(hidden, 1) and is_whole(heads, 1) and hidden % heads == 0:
        config["head_dim"] = hidden // heads
    _refuse_others(path, values, architecture, config)
    config |= _scaling(path, header, architecture, config)
    return config


def _architecture(path: Path, values: Mapping[str, Any]) -> str:
    name = values.get("general.architecture")
    kind = values.get("general.type", "model")
    parts = values.get("split.count", 1)
    refuse(
        (kind != "model", f"{path}: general.type is {shown(kind)}; give the file of a whole model"),
        (
            parts not in (0, 1),
            f"{path} is one of {shown(parts)} parts; merge them with `llama-gguf-split --merge`, and give that file",
        ),
        (
            not isinstance(name, str) or name not in _ARCHITECTURES,
            f"{path}: general.architecture is {shown(name)}; supported are {', '.join(_ARCHITECTURES)}",
        ),
    )
    assert isinstance(name, str)
    return name


def _read(path: Path, values: Mapping[str, Any], architecture: str, keys: tuple[_Key, ...]) -> dict[str, Any]:
    """What the metadata has of `keys`, by the names of config.json."""
    found = {}
    for key in keys:
        value = values.get(f"{architecture}.{key.gguf}")
        if value is None and key.needed:
            raise InputError(f"{path}: {architecture}.{key.gguf} is missing; convert the model again")
        if value is not None:
            found[key.config] = value
    return found


def _refuse_others(path: Path, values: Mapping[str, Any], architecture: str, config: Mapping[str, Any]) -> None:
    def value(name: str, default: Any) -> Any:
        return values.get(f"{architecture}.{name}", default)

    head_dim, positions = config.get("head_dim"), config["max_position_embeddings"]
    window, experts = value("attention.sliding_window", 0), value("expert_count", 0)
    refuse(
        (
            experts != 0,
            f"{path}: {architecture}.expert_count is {shown(experts)}; a mixture of experts is no model here",
        ),
        (
            value("attention.value_length", head_dim) != head_dim,
            f"{path}: keys and values differ in width, which is not supported",
        ),
        (
            head_dim is not None and value("rope.dimension_count", head_dim) != head_dim,
            f"{path}: {architecture}.rope.dimension_count is {shown(value('rope.dimension_count', None))} of "
            f"{shown(head_dim)}; only whole heads are rotated",
        ),
        (
            window != 0 and not (is_whole(window) and is_whole(positions) and window >= positions),
            f"{path}: {architecture}.attention.sliding_window is {shown(window)}; only full attention is supported",
        ),
    )


def _scaling(path: Path, header: Header, architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE scaling, as config.json has it."""
    kind = header.values.get(f"{architecture}.rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn"):
        raise InputError(f"{path}: {architecture}.rope.scaling.type is {shown(kind)}; supported are none, linear, yarn")
    if FREQUENCIES in header.tensors:
        if kind != "none":
            raise InputError(f"{path} has RoPE scaling {kind} and the tensor {FREQUENCIES}; only one can be in use")
        return {"rope_scaling": _llama3(path, header.tensors[FREQUENCIES], config)}
    more = header.values.get(f"{architecture}.rope.scaling.attn_factor", 1.0)
    if not is_number(more, 1e-6, 1e6) or (kind != "yarn" and more != 1.0):
        raise InputError(
            f"{path}: {architecture}.rope.scaling.attn_factor is {shown(more)} with scaling {kind}; a number "
            "is read, and with yarn alone another than 1: give the safetensors model"
        )
    if kind == "none":
        return {}
    section = _read(path, header.values, architecture, _SCALING[:1] if kind == "linear" else _SCALING)
    factor = section["factor"]
    if more != 1.0 and is_number(factor, 1, 1e6):
        # there it multiplies what YaRN makes of the factor, here it stands in its stead
        section["attention_factor"] = more * (1 + 0.1 * float(np.log(factor)))
    return {"rope_scaling": {"rope_type": kind, **section}}


def _llama3(path: Path, tensor: GgufTensor, config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling whose quotients of frequencies are those of `tensor`, [head_dim / 2]."""
    head_dim = config.get("head_dim", 0)
    theta, positions = config.get("rope_theta", 10_000.0), config["max_position_embeddings"]
    way = "its RoPE scaling cannot be told; give the safetensors model"
    if tensor.dtype != "F32" or not is_whole(head_dim, 2, 1024) or tensor.shape != (head_dim // 2,):
        raise InputError(f"{path}: {FREQUENCIES} is {tensor.dtype} of shape {shown(list(tensor.shape))}; {way}")
    with GgufTensors(path) as tensors:
        given = tensors.get_slice(FREQUENCIES)[:]
    factor = float(given.max())
    section = {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    if is_number(factor, 1, 1e6) and is_number(theta, 1.001, 1e12) and is_whole(positions, 1):
        plain = Rope(theta=theta).inverse_frequencies(head_dim)
        scaled = Rope.parse({"rope_theta": theta, "rope_scaling": section}, str(path), positions)
        if torch.allclose(plain / scaled.inverse_frequencies(head_dim), given, rtol=1e-4, atol=0):
            return section
    raise InputError(f"{path}: {FREQUENCIES} is not Llama 3's; {way}")


def _has_bfloat16(device: str) -> bool:
    """Whether the device computes in bfloat16 as fast as it loads it."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return native.LOADED and "bf16" in native.LEVEL
