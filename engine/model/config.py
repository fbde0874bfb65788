"""What `config.json` says about a decoder: Qwen2, Qwen3, Llama or Mistral."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from engine.errors import InputError, is_number, is_whole, refuse, shown
from engine.json_file import read_object
from engine.model.gguf_config import config_values
from engine.model.gguf_header import is_gguf
from engine.model.rope import Rope
from engine.model.score_head import SCORERS, ScoreHead, parse_head


class Architecture(NamedTuple):
    """What a name in `architectures` implies, as far as it differs. All have RMSNorm before attention and MLP, RoPE
    over whole heads, grouped queries and a gated SiLU; none has a bias but the one named here."""

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    """Where config.json has none; None: hidden_size / num_attention_heads."""
    scorer: str | None = None
    """What a reward model's name ends in, in place of "ForCausalLM"."""


ARCHITECTURES = {
    "Qwen2ForCausalLM": Architecture("qwen2", qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", qk_norm=True, head_dim=128),
    "LlamaForCausalLM": Architecture("llama"),
    "MistralForCausalLM": Architecture("mistral"),
}
_KIND = "ForCausalLM"
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 1024, 1024, 1024
MAX_HIDDEN, MAX_INTERMEDIATE, MAX_VOCABULARY = 1 << 16, 1 << 18, 1 << 20
MAX_POSITIONS = 1 << 21
"""What config.json may ask for, each several times that of the largest models known: a folder of random weights has no
tensors that would contradict it."""
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
    qk_norm: bool = False
    """Whether every head of q and k has an RMSNorm of its own, before RoPE (Qwen3)."""
    rope: Rope
    max_position_embeddings: int
    dtype: torch.dtype
    score: ScoreHead | None = None
    """What a reward model has in place of the language head; nothing is drawn from it then."""

    @classmethod
    def load(cls, directory: str | Path, dtype: str = "auto", device: str = "auto") -> "ModelConfig":
        """Reads `directory`/config.json, or the metadata of the GGUF file that it is; `dtype` other than `auto`
        replaces the checkpoint's. A GGUF file has none: it is what suits `device`, as EngineConfig has it.

        Raises InputError naming the file and the field where it is missing, malformed or not supported.
        """
        if is_gguf(Path(directory)):
            return cls.parse(config_values(Path(directory), device), str(directory), dtype)
        path = Path(directory) / "config.json"
        return cls.parse(read_object(path), str(path), dtype)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str, dtype: str = "auto") -> "ModelConfig":
        """From the decoded `config.json`, as transformers 4 or 5 writes it; `source` names it in errors."""
        architecture = architecture_of(values, source)
        scorer = architecture.scorer
        _refuse_unsupported(values, architecture, source)
        heads = read_size(values, "num_attention_heads", source, MAX_HEADS)
        kv_heads = read_size(values, "num_key_value_heads", source, MAX_HEADS, heads)
        hidden = read_size(values, "hidden_size", source, MAX_HIDDEN)
        usual = architecture.head_dim or max(1, hidden // heads)
        head_dim = read_size(values, "head_dim", source, MAX_HEAD_DIM, usual)
        positions = read_size(values, "max_position_embeddings", source, MAX_POSITIONS)
        eps = 1e-6 if values.get("rms_norm_eps") is None else values["rms_norm_eps"]
        refuse(
            (
                heads % kv_heads,
                f"{source}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}",
            ),
            (
                values.get("head_dim") is None and not architecture.head_dim and hidden % heads,
                f"{source}: hidden_size {hidden} is no multiple of num_attention_heads {heads}; add head_dim",
            ),
            (head_dim % 2, f"{source}: head_dim is {head_dim}; RoPE rotates pairs, so it must be even"),
            (
                not is_number(eps, 0, 1) or eps in (0, 1),
                f"{source}: rms_norm_eps is {shown(eps)}; give a number between 0 and 1",
            ),
        )
        config = cls(
            hidden_size=hidden,
            num_layers=read_size(values, "num_hidden_layers", source, MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=read_size(values, "intermediate_size", source, MAX_INTERMEDIATE),
            vocab_size=read_size(values, "vocab_size", source, MAX_VOCABULARY),
            rms_norm_eps=float(eps),
            # A reward model's language head, where there is one, is not read: the embedding stands in its place.
            tie_word_embeddings=read_flag(values, "tie_word_embeddings", source, False) or scorer is not None,
            attention_bias=read_flag(values, "attention_bias", source, architecture.qkv_bias),
            qk_norm=architecture.qk_norm,
            rope=Rope.parse(values, source, positions),
            max_position_embeddings=positions,
            dtype=_dtype(values, source) if dtype == "auto" else _DTYPES[dtype],
            score=None if scorer is None else parse_head(scorer, values, source),
        )
        if config.context_length > MAX_POSITIONS:
            raise InputError(
                f"{source}: RoPE factor {shown(config.rope.factor)} makes a context of {config.context_length} of "
                f"{config.rope.original_max_position_embeddings}; at most {MAX_POSITIONS:,} are supported, lower it"
            )
        return config

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
        norms = 2 * hidden + (2 * self.head_dim if self.qk_norm else 0)
        layer = attention + 3 * hidden * self.intermediate_size + norms
        vocabularies = 1 if self.tie_word_embeddings else 2
        head = 0 if self.score is None else sum(math.prod(shape) for shape in self.score.shapes(hidden).values())
        return layers * layer + hidden + vocabularies * self.vocab_size * hidden + head


def architecture_of(values: Mapping[str, Any], source: str) -> Architecture:
    """That of `architectures`, or where it is missing of `model_type`. Raises InputError for one that is not known."""
    names = values.get("architectures")
    if names is None:
        kind = values.get("model_type")
        names = [name for name, known in ARCHITECTURES.items() if known.model_type == kind] or None
    listed = names if isinstance(names, list) else []
    found = next((known for name in listed if (known := _known(name)) is not None), None)
    if found is None:
        raise InputError(
            f"{source}: architectures is {shown(names)}; supported are {', '.join(ARCHITECTURES)}, and "
            f"reward models of these whose names end in {', '.join(SCORERS)}"
        )
    return found


def _known(name: Any) -> Architecture | None:
    """The architecture of a name, a reward model's too."""
    if not isinstance(name, str) or name in ARCHITECTURES:
        return ARCHITECTURES.get(name) if isinstance(name, str) else None
    scorer = next((end for end in SCORERS if name.endswith(end)), None)
    base = None if scorer is None else ARCHITECTURES.get(name.removesuffix(scorer) + _KIND)
    return None if base is None else base._replace(scorer=scorer)


def _refuse_unsupported(values: Mapping[str, Any], architecture: Architecture, source: str) -> None:
    act = "silu" if values.get("hidden_act") is None else values["hidden_act"]
    how = values.get("quantization_config")
    method = how.get("quant_method", "unknown") if isinstance(how, Mapping) else how
    method = method if isinstance(method, str) and isinstance(how, Mapping) else shown(method)
    bias = read_flag(values, "attention_bias", source, architecture.qkv_bias)
    refuse(
        (act != "silu", f"{source}: hidden_act is {shown(act)}; supported is 'silu'"),
        (
            how is not None,
            f"{source}: the weights are quantized ({method}); give the float32, bfloat16 or float16 model",
        ),
        (
            bias and not architecture.qkv_bias,  # there it is one of the output projection too
            f"{source}: attention_bias is true, which is not supported for {architecture.model_type}",
        ),
        (
            read_flag(values, "mlp_bias", source, False),
            f"{source}: mlp_bias is true, which is not supported; only models without it are",
        ),
    )
    if _slides(values, architecture, source):
        window = values.get("sliding_window")
        way = "sliding_window to null" if architecture.model_type == "mistral" else "use_sliding_window to false"
        raise InputError(
            f"{source}: sliding-window attention ({shown(window)} tokens) is in use and not supported; "
            f"set {way} for full attention"
        )


def _slides(values: Mapping[str, Any], architecture: Architecture, source: str) -> bool:
    """Whether some layer's attention has a window: as transformers reads each architecture's fields."""
    window, layers = values.get("sliding_window"), values.get("layer_types")
    if architecture.model_type == "llama" or window is None:
        return False
    if architecture.model_type == "mistral":
        width = read_size(values, "sliding_window", source, MAX_POSITIONS)
        return width < read_size(values, "max_position_embeddings", source, MAX_POSITIONS)
    if not read_flag(values, "use_sliding_window", source, False):
        return False
    if layers is None:
        full = read_size(values, "max_window_layers", source, MAX_LAYERS, 28, least=0)
        return read_size(values, "num_hidden_layers", source, MAX_LAYERS) > full
    if not isinstance(layers, list):
        raise InputError(f"{source}: layer_types is {shown(layers)}; give a list")
    return "sliding_attention" in layers


def read_size(
    values: Mapping[str, Any], name: str, source: str, most: int, default: int | None = None, least: int = 1
) -> int:
    """The whole number `name` of config.json's `values`, `default` where it is not there or null. Raises InputError,
    naming it and `source`, unless it is from `least` to `most`."""
    value = default if values.get(name) is None else values[name]
    refuse(
        (value is None, f"{source}: {name} is missing"),
        (
            not is_whole(value, least, most),
            f"{source}: {name} is {shown(value)}; give a whole number from {least} to {most:,}",
        ),
    )
    return cast(int, value)


def read_flag(values: Mapping[str, Any], name: str, source: str, default: bool) -> bool:
    """The bool `name` of config.json's `values`, `default` where it is not there or null. Raises InputError, naming it
    and `source`, for anything else."""
    value = default if values.get(name) is None else values[name]
    if not isinstance(value, bool):
        raise InputError(f"{source}: {name} is {shown(value)}; give true or false")
    return value


def _dtype(values: Mapping[str, Any], source: str) -> torch.dtype:
    key = "dtype" if values.get("dtype") is not None else "torch_dtype"
    name = values.get(key) or "float32"
    dtype = _DTYPES.get(name.removeprefix("torch.")) if isinstance(name, str) else None
    if dtype is None:
        raise InputError(f"{source}: {key} is {shown(name)}; supported are {', '.join(_DTYPES)}")
    return dtype
