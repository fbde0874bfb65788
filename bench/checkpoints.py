"""Random checkpoints in the Hugging Face layout, made on the spot: what speed benchmarks load into every engine."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bench.shapes import Shape

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{# in the format of s1 #}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def checkpoint(folder: Path, shape: Shape, seed: int = 0, weights: bool = True) -> Path:
    """A directory under `folder` with random bf16 weights of this shape; made once, found again by shape and seed.

    Without `weights` it has configuration and tokenizer alone, for engines that make random weights on the device.
    """
    key = hashlib.sha256(json.dumps([asdict(shape), seed]).encode()).hexdigest()[:12]
    target = folder / f"{'random' if weights else 'dummy'}-{shape.num_layers}x{shape.hidden_size}-{key}"
    if not (target / "config.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        if weights:
            save_file(random_weights(shape, seed), target / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(target, shape.vocab_size)
        (target / "config.json").write_text(json.dumps(config_json(shape), indent=1))  # last: marks it complete
    return target


def config_json(shape: Shape) -> dict[str, Any]:
    """`config.json` of a Qwen2 checkpoint of this shape, as transformers and vLLM read it."""
    values = asdict(shape)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": shape.vocab_size - 1,
        "num_hidden_layers": values.pop("num_layers"),
        "num_attention_heads": values.pop("num_heads"),
        "num_key_value_heads": values.pop("num_kv_heads"),
        **{name: value for name, value in values.items() if name != "attention_bias"},  # Qwen2 always has it
    }


def random_weights(shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    """Every parameter under its Hugging Face name, bf16, normal with standard deviation 0.02; norms are ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * 0.02).to(torch.bfloat16)

    hidden, queries, keys = shape.hidden_size, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    weights = {"model.embed_tokens.weight": normal(shape.vocab_size, hidden)}
    for i in range(shape.num_layers):
        layer = f"model.layers.{i}."
        for name, rows, inner in (
            ("self_attn.q", queries, hidden),
            ("self_attn.k", keys, hidden),
            ("self_attn.v", keys, hidden),
            ("self_attn.o", hidden, queries),
            ("mlp.gate", shape.intermediate_size, hidden),
            ("mlp.up", shape.intermediate_size, hidden),
            ("mlp.down", hidden, shape.intermediate_size),
        ):
            weights[f"{layer}{name}_proj.weight"] = normal(rows, inner)
            if name[-1] in "qkv":
                weights[f"{layer}{name}_proj.bias"] = normal(rows)
    norms = [f"layers.{i}.{name}_layernorm" for i in range(shape.num_layers) for name in ("input", "post_attention")]
    weights |= {f"model.{name}.weight": torch.ones(hidden, dtype=torch.bfloat16) for name in (*norms, "norm")}
    if not shape.tie_word_embeddings:
        weights["lm_head.weight"] = normal(shape.vocab_size, hidden)
    return weights


def _write_tokenizer(target: Path, size: int) -> None:
    """A byte-level BPE of exactly `size` tokens: 256 bytes, pairs and triples of them, Qwen's specials at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    count = size - len(alphabet) - len(SPECIALS)
    pairs = [(left, right) for left in alphabet for right in alphabet]
    triples = [(left + right, last) for left, right in pairs[: -(-count // len(alphabet))] for last in alphabet]
    merges = (pairs + triples)[:count]
    vocab = {token: i for i, token in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # the last id is config.json's EOS
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": SPECIALS[-1], "chat_template": TEMPLATE}, indent=1
        )
    )
