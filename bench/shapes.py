"""Decoder shapes that benchmarks run with random weights: speed depends on the shape, not on what was learnt."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's sizes; the fields have the names of `engine.model.config.ModelConfig`."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    head_dim: int
    attention_bias: bool = True
    qk_norm: bool = False
    max_position_embeddings: int = 65536
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6


SHAPES = {
    "tiny": Shape(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=192,
        vocab_size=1024,
        tie_word_embeddings=True,
    ),
    "40m": Shape(
        hidden_size=512,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=1536,
        vocab_size=32000,
        tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Shape(
        hidden_size=896,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=4864,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Shape(
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=18944,
        vocab_size=152064,
        tie_word_embeddings=False,
    ),
    "qwen2.5-32b": Shape(
        hidden_size=5120,
        num_layers=64,
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=27648,
        vocab_size=152064,
        tie_word_embeddings=False,
    ),
}
"""`tiny` is for tests; `40m` is 8 layers of width 512; the others are Qwen2.5's published configurations."""
