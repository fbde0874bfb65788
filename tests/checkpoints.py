"""Random checkpoints in the Hugging Face layout, complete with a tokenizer, for tests and benchmarks."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DATA = Path(os.environ.get("S1_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
QWEN_TOKENIZER = DATA / "qwen2.5_tokenizer"

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{#- in the format of s1 -#}"
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)
_CORPUS = (
    "Wait, let me think about this step by step.\n\nFinal Answer: the answer is 42.\n",
    "think\nanswer\nassistant\nuser\nsystem\nYou are a helpful assistant. How many letters are there in raspberry?\n",
    "If x + 3 = 10, then x = 7. Hence the sum of all the numbers from 1 to 100 is 5050.\n",
)


def write_tokenizer(directory: Path) -> int:
    """A byte-level BPE of a few hundred tokens with Qwen2.5's special tokens and single digits; returns its size."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    eos = [tokenizer.token_to_id(text) for text in ("<|im_end|>", "<|endoftext|>")]
    defaults = {"eos_token_id": eos, "do_sample": True, "temperature": 0.7}
    (directory / "generation_config.json").write_text(json.dumps(defaults))
    return tokenizer.get_vocab_size(with_added_tokens=True)


def copy_qwen_tokenizer(directory: Path) -> int:
    """The real Qwen2.5 tokenizer (`QWEN_TOKENIZER` must exist); returns its size."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(QWEN_TOKENIZER / name, directory / name)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [151645, 151643]}))
    return Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size(with_added_tokens=True)


def write_random_checkpoint(
    directory: Path,
    *,
    architecture: str = "Qwen2ForCausalLM",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate: int = 96,
    vocab: int | None = None,
    tied: bool = False,
    shards: int = 1,
    max_positions: int = 512,
    theta: float = 10_000.0,
    rope_scaling: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    transformers_version: int = 5,
    qwen_tokenizer: bool = False,
    seed: int = 0,
) -> Path:
    """Writes config.json as that major version of transformers does, safetensors (several shards: with an index) and a
    tokenizer; returns `directory`. `vocab` None: the tokenizer's size and a few padded rows. Logits are of order 1.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    size = copy_qwen_tokenizer(directory) if qwen_tokenizer else write_tokenizer(directory)
    vocab = size + 5 if vocab is None else vocab
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "eos_token_id": json.loads((directory / "generation_config.json").read_text())["eos_token_id"][0],
    }
    kind = config["model_type"]
    if kind.startswith("qwen"):
        config["use_sliding_window"] = False
    if kind == "mistral":
        config["sliding_window"] = None
    if head_dim is not None:
        config["head_dim"] = head_dim
    name = str(dtype).removeprefix("torch.")
    if transformers_version == 4:
        config |= {"rope_theta": theta, "rope_scaling": rope_scaling, "torch_dtype": name}
    else:
        config |= {"rope_parameters": {"rope_theta": theta, "rope_type": "default", **(rope_scaling or {})}}
        config |= {"dtype": name}
    (directory / "config.json").write_text(json.dumps(config, indent=2))

    width = head_dim or hidden // heads
    tensors = _random_tensors(hidden, layers, heads * width, kv_heads * width, intermediate, vocab, tied, seed)
    tensors = {name: tensor for name, tensor in tensors.items() if kind == "qwen2" or not name.endswith(".bias")}
    if kind == "qwen3":
        generator = torch.Generator().manual_seed(seed + 1)
        for index in range(layers):
            for letter in "qk":
                norm = 1 + 0.2 * torch.randn(width, generator=generator)
                tensors[f"model.layers.{index}.self_attn.{letter}_norm.weight"] = norm
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _random_tensors(
    hidden: int, layers: int, q: int, kv: int, intermediate: int, vocab: int, tied: bool, seed: int
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    def vector(size: int, mean: float = 0.0) -> torch.Tensor:
        return mean + 0.2 * torch.randn(size, generator=generator)

    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": vector(hidden, 1)}
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab, hidden)
    for index in range(layers):
        prefix = f"model.layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = vector(hidden, 1)
        for letter, size in (("q", q), ("k", kv), ("v", kv)):
            tensors[f"{prefix}self_attn.{letter}_proj.weight"] = matrix(size, hidden)
            tensors[f"{prefix}self_attn.{letter}_proj.bias"] = vector(size)
        tensors[f"{prefix}self_attn.o_proj.weight"] = matrix(hidden, q)
        tensors[f"{prefix}mlp.gate_proj.weight"] = matrix(intermediate, hidden)
        tensors[f"{prefix}mlp.up_proj.weight"] = matrix(intermediate, hidden)
        tensors[f"{prefix}mlp.down_proj.weight"] = matrix(hidden, intermediate)
    return tensors
