"""The shape of a decoder that is trained, as the engine describes it, and its arithmetic: parameters, FLOPs."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.errors import InputError, is_number, shown
from engine.json_file import read_object
from engine.model.config import ModelConfig, architecture_of


@dataclass(frozen=True, kw_only=True)
class Architecture(ModelConfig):
    """What config.json says, and what training adds."""

    model_type: str
    initializer_range: float = 0.02

    @property
    def layer_matmul_parameters(self) -> int:
        return self.hidden_size * (2 * (self.q_size + self.kv_size) + 3 * self.intermediate_size)

    @property
    def layer_parameters(self) -> int:
        bias = self.q_size + 2 * self.kv_size if self.attention_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return self.layer_matmul_parameters + bias + norms

    @property
    def matmul_parameters(self) -> int:
        """Parameters that multiply each token: the head counts, the embedding lookup does not."""
        return self.num_layers * self.layer_matmul_parameters + self.vocab_size * self.hidden_size

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from another, as JSON has it; not the dtype, which a run chooses."""
        return {name: value for name, value in asdict(self).items() if name not in ("dtype", "score")}

    def attention_flops(self, lengths: list[int]) -> float:
        """Causal attention, forward and backward: 6 * layers * heads * head_dim * length per token (half of 12)."""
        return 6.0 * self.num_layers * self.num_heads * self.head_dim * sum(float(n) * n for n in lengths)

    def training_flops(self, lengths: list[int], frozen: bool = False) -> float:
        """FLOPs of one forward and backward pass over documents of `lengths`, recomputation not counted.

        Frozen weights (LoRA) need no gradient of their own: 4 instead of 6 per parameter and token.
        """
        return (4.0 if frozen else 6.0) * self.matmul_parameters * sum(lengths) + self.attention_flops(lengths)

    @classmethod
    def load(cls, directory: str | Path, dtype: str = "auto", device: str = "auto") -> "Architecture":
        """Reads config.json (or the one in a directory); it names a dtype, and `device` decides nothing. Raises
        InputError for what is not implemented."""
        path = Path(directory) / "config.json" if Path(directory).is_dir() else Path(directory)
        values = read_object(path)
        spread = 0.02 if values.get("initializer_range") is None else values["initializer_range"]
        if not is_number(spread, 1e-30, 1):
            raise InputError(f"{path}: initializer_range is {shown(spread)}; give a number above 0, up to 1")
        config = ModelConfig.parse(values, str(path), dtype)
        if config.score is not None:
            raise InputError(f"{path}: architectures names a reward model; what is trained here is a language model")
        own = {field.name: getattr(config, field.name) for field in fields(ModelConfig)}
        kind = architecture_of(values, str(path)).model_type
        return cls(**own, model_type=kind, initializer_range=float(spread))
