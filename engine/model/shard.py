"""What one rank of a tensor-parallel group holds of a model; `weights.py` cuts the tensors by it while loading."""

from dataclasses import dataclass

from engine.errors import InputError
from engine.model.config import ModelConfig


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a model: whole heads, a slice of the MLP, rows of the vocabulary. Starts are global."""

    rank: int
    size: int
    num_heads: int
    head_start: int
    num_kv_heads: int
    kv_head_start: int
    """Ranks above the number of KV heads share them: `size / heads` neighbours hold the same one."""
    intermediate_size: int
    intermediate_start: int
    vocab_size: int
    """Rows of the tensors: the same on all ranks, so the last ones may be padding."""
    vocab_start: int
    vocab_rows: int
    """Rows that exist in the checkpoint."""

    @classmethod
    def of(cls, config: ModelConfig, rank: int = 0, size: int = 1) -> "Shard":
        """Raises InputError, with the numbers, where the model cannot be split `size` ways."""
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.intermediate_size
        if heads % size or (kv_heads % size and size % kv_heads) or width % size:
            raise InputError(
                f"tensor_parallel_size {size} does not split this model: {heads} heads and an MLP of {width} must be "
                f"multiples of it, and {kv_heads} KV heads a multiple or a divisor; give another size"
            )
        vocab = -(-config.vocab_size // size)
        return cls(
            rank=rank,
            size=size,
            num_heads=heads // size,
            head_start=rank * (heads // size),
            num_kv_heads=max(1, kv_heads // size),
            kv_head_start=rank * kv_heads // size,
            intermediate_size=width // size,
            intermediate_start=rank * (width // size),
            vocab_size=vocab,
            vocab_start=rank * vocab,
            vocab_rows=max(0, min(vocab, config.vocab_size - rank * vocab)),
        )
