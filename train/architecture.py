"""The shape of a Qwen2-, Qwen3- or Llama-like decoder, and its arithmetic: parameters, FLOPs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import is_number, shown
from engine.json_file import read_object
from engine.model import config as sizes
from engine.model.config import read_flag, read_size
from train.errors import TrainingError

MODEL_TYPES = ("qwen2", "qwen3", "llama")


@dataclass(frozen=True)
class Architecture:
    """The numbers that shape a decoder, named as in config.json where that says it best."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool
    """The head's weight is the embedding's."""
    initializer_range: float
    max_positions: int

    @property
    def qkv_bias(self) -> bool:
        return self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.model_type == "qwen3"

    @property
    def layer_matmul_parameters(self) -> int:
        return self.hidden_size * (
            2 * self.head_dim * (self.num_heads + self.num_kv_heads) + 3 * self.intermediate_size
        )

    @property
    def layer_parameters(self) -> int:
        bias = self.head_dim * (self.num_heads + 2 * self.num_kv_heads) if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return self.layer_matmul_parameters + bias + norms

    @property
    def parameters(self) -> int:
        ends = self.vocab_size * self.hidden_size * (1 if self.tied else 2) + self.hidden_size
        return self.num_layers * self.layer_parameters + ends

    @property
    def matmul_parameters(self) -> int:
        """Parameters that multiply each token: the head counts, the embedding lookup does not."""
        return self.num_layers * self.layer_matmul_parameters + self.vocab_size * self.hidden_size

    def attention_flops(self, lengths: list[int]) -> float:
        """Causal attention, forward and backward: 6 * layers * heads * head_dim * length per token (half of 12)."""
        return 6.0 * self.num_layers * self.num_heads * self.head_dim * sum(float(n) * n for n in lengths)

    def training_flops(self, lengths: list[int], frozen: bool = False) -> float:
        """FLOPs of one forward and backward pass over documents of `lengths`, recomputation not counted.

        Frozen weights (LoRA) need no gradient of their own: 4 instead of 6 per parameter and token.
        """
        return (4.0 if frozen else 6.0) * self.matmul_parameters * sum(lengths) + self.attention_flops(lengths)

    @staticmethod
    def load(path: str | Path) -> "Architecture":
        """Reads config.json (or the one in a directory). Raises InputError for what is not implemented here."""
        path = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
        config = read_object(path)
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
            raise TrainingError(
                f"{path}: model_type {shown(model_type)} cannot be trained; one of {', '.join(MODEL_TYPES)} can"
            )
        # transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise TrainingError(f"{path}: rope_parameters or rope_scaling is {shown(rope)}; it must be an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        refused = (
            (kind != "default", f"rope scaling {shown(kind)} is not implemented for training; use the unscaled model"),
            *(
                (config.get(name), f"{name} is set; this trainer implements full attention without MLP bias")
                for name in ("use_sliding_window", "mlp_bias")
            ),
            (
                config.get("attention_bias") and model_type != "qwen2",
                "attention_bias is set; only qwen2's own biases are implemented",
            ),
        )
        for holds, reason in refused:
            if holds:
                raise TrainingError(f"{path}: {reason}")
        heads = read_size(config, "num_attention_heads", str(path), sizes.MAX_HEADS)
        hidden = read_size(config, "hidden_size", str(path), sizes.MAX_HIDDEN)
        theta = next((t for t in (rope.get("rope_theta"), config.get("rope_theta")) if t is not None), 10000.0)
        return Architecture(
            model_type=model_type,
            hidden_size=hidden,
            intermediate_size=read_size(config, "intermediate_size", str(path), sizes.MAX_INTERMEDIATE),
            num_layers=read_size(config, "num_hidden_layers", str(path), sizes.MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=read_size(config, "num_key_value_heads", str(path), sizes.MAX_HEADS, heads),
            head_dim=read_size(config, "head_dim", str(path), sizes.MAX_HEAD_DIM, max(1, hidden // heads)),
            vocab_size=read_size(config, "vocab_size", str(path), sizes.MAX_VOCABULARY),
            rms_norm_eps=_number(config.get("rms_norm_eps", 1e-6), "rms_norm_eps", path, 1),
            rope_theta=_number(theta, "rope_theta", path, 1e15),
            tied=read_flag(config, "tie_word_embeddings", str(path), False),
            initializer_range=_number(config.get("initializer_range", 0.02), "initializer_range", path, 1),
            max_positions=read_size(config, "max_position_embeddings", str(path), sizes.MAX_POSITIONS, 32768),
        )


def _number(value: object, name: str, path: Path, most: float) -> float:
    if not is_number(value, 1e-30, most):
        raise TrainingError(f"{path}: {name} is {shown(value)}; give a number above 0, up to {most:g}")
    return float(value)  # type: ignore[arg-type]
