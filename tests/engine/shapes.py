"""Shapes of random checkpoints: every kind of attention, head and position that the decoder knows."""

from typing import Any

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
QWEN3, LLAMA, MISTRAL = "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"

SHAPES: dict[str, dict[str, Any]] = {
    "mha": {"heads": 4, "kv_heads": 4},
    "mha_tied": {"heads": 4, "kv_heads": 4, "tied": True},
    "gqa4": {"heads": 8, "kv_heads": 2},
    "gqa4_tied_4": {"heads": 8, "kv_heads": 2, "tied": True, "transformers_version": 4},
    "gqa7": {"hidden": 56, "heads": 7, "kv_heads": 1},
    "gqa7_two_kv_tied": {"hidden": 112, "heads": 14, "kv_heads": 2, "tied": True, "layers": 3},
    "wide_heads": {"heads": 4, "kv_heads": 2, "head_dim": 32},
    "narrow_heads": {"heads": 4, "kv_heads": 1, "head_dim": 8, "transformers_version": 4},
    "yarn": {"rope_scaling": YARN, "max_positions": 256},
    "yarn_4": {"rope_scaling": YARN, "max_positions": 256, "theta": 1e6, "transformers_version": 4, "tied": True},
    "yarn_parameters": {
        "rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.3, "truncate": False},
        "max_positions": 256,
        "head_dim": 64,
    },
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "qwen3": {"architecture": QWEN3, "heads": 8, "kv_heads": 2, "head_dim": 32, "tied": True},
    "qwen3_4": {"architecture": QWEN3, "kv_heads": 4, "head_dim": 16, "theta": 1e6, "transformers_version": 4},
    "qwen3_yarn": {"architecture": QWEN3, "kv_heads": 1, "head_dim": 64, "rope_scaling": YARN, "max_positions": 256},
    "llama": {"architecture": LLAMA, "heads": 3, "kv_heads": 1, "hidden": 48, "tied": True},
    "llama3": {"architecture": LLAMA, "rope_scaling": LLAMA3, "theta": 5e5},
    "llama3_4": {"architecture": LLAMA, "rope_scaling": LLAMA3, "head_dim": 32, "transformers_version": 4},
    "mistral": {"architecture": MISTRAL, "head_dim": 32, "theta": 1e6},
    "shards": {"shards": 3, "layers": 3, "intermediate": 100},
    "shards_tied": {"shards": 4, "tied": True, "theta": 1e6, "layers": 1},
}
