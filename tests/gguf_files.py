"""GGUF files made of checkpoint folders, as llama.cpp's converter makes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from engine.model.gguf_header import BLOCKS

LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of Hugging Face's."""
    stem, _, kind = name.rpartition(".")
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER[part]}.{kind}"


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's conversion/llama.py: `permute`."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    folder: Path,
    kind: str = "F32",
    pre: str = "smollm",
    more: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The checkpoint in `folder`, its matrices of the type `kind`; `more` metadata and `tensors` are laid over it (None
    takes a key away)."""
    config = json.loads((folder / "config.json").read_text())
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    values: dict[str, Any] = {
        "general.name": folder.name,
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{arch}.rope.freq_base": rope["rope_theta"],
    }
    if "head_dim" in config:
        values |= dict.fromkeys((f"{arch}.attention.key_length", f"{arch}.attention.value_length"), config["head_dim"])
    values |= tokenizer_values(folder, pre)
    values |= more or {}
    writer = gguf.GGUFWriter(str(path), arch)
    for key, value in values.items():
        add_value(writer, key, value)
    for name, tensor in load_file(folder / "model.safetensors").items():
        array = tensor.float().numpy()
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = permuted(array, heads if ".q_proj." in name else kv_heads)
        add_tensor(writer, gguf_name(name), array, kind if array.ndim == 2 else "F32")
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """With the type that converters give it."""
    if value is None:
        return
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    """Of the type `kind`, rounded as the package rounds."""
    if kind == "BF16":
        data = torch.from_numpy(array).bfloat16().view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    elif kind in ("F32", "F16"):
        writer.add_tensor(name, array.astype({"F32": np.float32, "F16": np.float16}[kind]))
    else:
        number = gguf.GGMLQuantizationType(BLOCKS[kind][0])
        writer.add_tensor(name, gguf.quants.quantize(array, number), raw_dtype=number)


def tokenizer_values(folder: Path, pre: str) -> dict[str, Any]:
    """tokenizer.json as metadata."""
    file = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    texts = {i: (text, 1) for text, i in file["model"]["vocab"].items()}
    texts |= {token["id"]: (token["content"], 3 if token["special"] else 4) for token in file["added_tokens"]}
    merges = file["model"]["merges"]
    eos = {text: i for i, (text, _) in texts.items()}[settings["eos_token"]]
    padded = range(json.loads((folder / "config.json").read_text())["vocab_size"])  # as converters fill it up
    listed = [texts.get(i, (f"[PAD{i}]", 5)) for i in padded]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [text for text, _ in listed],
        "tokenizer.ggml.token_type": [kind for _, kind in listed],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.chat_template": settings.get("chat_template"),
    }
