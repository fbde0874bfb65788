"""What `config.json` says about a Qwen2 decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from engine.errors import InputError, is_number, is_whole, refuse, shown
from engine.json_file import read_object
from engine.model.rope import Rope

ARCHITECTURE = "Qwen2ForCausalLM"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole model's shape (not a rank's part of it). Sizes are numbers of elements."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    """Rows of the embedding and the head; may exceed the tokenizer's size (padding)."""
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    """Whether q, k and v have a bias."""
    rope: Rope
    max_position_embeddings: int
    dtype: torch.dtype

    @classmethod
    def load(cls, directory: str | Path, dtype: str = "auto") -> "ModelConfig":
        """Reads `directory`/config.json; `dtype` other than `auto` replaces the checkpoint's.

        Raises InputError naming the file and the field where it is missing, malformed or not supported.
        """
        path = Path(directory) / "config.json"
        return cls.parse(read_object(path), str(path), dtype)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str, dtype: str = "auto") -> "ModelConfig":
        """From the decoded `config.json`, as transformers 4 or 5 writes it; `source` names it in errors."""
        _refuse_unsupported(values, source)
        heads = _size(values, "num_attention_heads", source)
        kv_heads = _size(values, "num_key_value_heads", source, heads)
        hidden = _size(values, "hidden_size", source)
        head_dim = _size(values, "head_dim", source, max(1, hidden // heads))
        eps = values.get("rms_norm_eps", 1e-6)
        refuse(
            (
                heads % kv_heads,
                f"{source}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}",
            ),
            (
                values.get("head_dim") is None and hidden % heads,
                f"{source}: hidden_size {hidden} is no multiple of num_attention_heads {heads}; add head_dim",
            ),
            (head_dim % 2, f"{source}: head_dim is {head_dim}; RoPE rotates pairs, so it must be even"),
            (
                not is_number(eps, 0, 1) or eps in (0, 1),
                f"{source}: rms_norm_eps is {eps!r}; give a number between 0 and 1",
            ),
        )
        return cls(
            hidden_size=hidden,
            num_layers=_size(values, "num_hidden_layers", source),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=_size(values, "intermediate_size", source),
            vocab_size=_size(values, "vocab_size", source),
            rms_norm_eps=float(eps),
            tie_word_embeddings=_flag(values, "tie_word_embeddings", source, False),
            attention_bias=_flag(values, "attention_bias", source, True),
            rope=Rope.parse(values, source),
            max_position_embeddings=_size(values, "max_position_embeddings", source),
            dtype=_dtype(values, source) if dtype == "auto" else _DTYPES[dtype],
        )

    @property
    def context_length(self) -> int:
        """Positions the model is made for. Qwen2.5 turns YaRN on without raising max_position_embeddings."""
        if self.rope.kind != "yarn":
            return self.max_position_embeddings
        return max(self.max_position_embeddings, int(self.rope.original_max_position_embeddings * self.rope.factor))

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Parameters held in memory; a tied head counts once."""
        hidden, layers = self.hidden_size, self.num_layers
        qkv = self.q_size + 2 * self.kv_size
        attention = hidden * (qkv + self.q_size) + (qkv if self.attention_bias else 0)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        vocabularies = 1 if self.tie_word_embeddings else 2
        return layers * layer + hidden + vocabularies * self.vocab_size * hidden


def _refuse_unsupported(values: Mapping[str, Any], source: str) -> None:
    architectures = values.get("architectures")
    if architectures is None and values.get("model_type") == "qwen2":
        architectures = [ARCHITECTURE]
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        raise InputError(f"{source}: architectures is {architectures!r}; supported is {ARCHITECTURE}")
    act, how = values.get("hidden_act", "silu"), values.get("quantization_config")
    method = how.get("quant_method", "unknown") if isinstance(how, Mapping) else shown(how)
    window, layers = values.get("sliding_window"), values.get("layer_types")
    slides = bool(values.get("use_sliding_window")) and window is not None
    refuse(
        (act != "silu", f"{source}: hidden_act is {act!r}; supported is 'silu'"),
        (
            how is not None,
            f"{source}: the weights are quantized ({method}); give the float32, bfloat16 or float16 model",
        ),
        (
            slides and not isinstance(layers, (list, type(None))),
            f"{source}: layer_types is {shown(layers)}; give a list",
        ),
    )
    if slides and layers is None:
        full = _size(values, "max_window_layers", source, 28, least=0)
        slides = _size(values, "num_hidden_layers", source) > full
    if slides and (layers is None or "sliding_attention" in layers):
        raise InputError(
            f"{source}: sliding-window attention ({window} tokens) is in use and not supported; "
            f"set use_sliding_window to false for full attention"
        )


def _size(values: Mapping[str, Any], name: str, source: str, default: int | None = None, least: int = 1) -> int:
    value = default if values.get(name) is None else values[name]
    refuse(
        (value is None, f"{source}: {name} is missing"),
        (
            not is_whole(value, least),
            f"{source}: {name} is {shown(value)}; give a whole number of at least {least}",
        ),
    )
    return cast(int, value)


def _flag(values: Mapping[str, Any], name: str, source: str, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{source}: {name} is {value!r}; give true or false")
    return value


def _dtype(values: Mapping[str, Any], source: str) -> torch.dtype:
    key = "dtype" if values.get("dtype") is not None else "torch_dtype"
    name = values.get(key) or "float32"
    if not isinstance(name, str) or name not in _DTYPES:
        raise InputError(f"{source}: {key} is {name!r}; supported are {', '.join(_DTYPES)}")
    return _DTYPES[name]
