"""The decoder against transformers, step by step, without the engine loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from tests.checkpoints import write_random_checkpoint
from tests.engine.steps import load_decoder, random_sequences, run_mixed

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

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
    "shards": {"shards": 3, "layers": 3, "intermediate": 100},
    "shards_tied": {"shards": 4, "tied": True, "theta": 1e6, "layers": 1},
}


def reference_logits(directory: Path, sequences: list[list[int]]) -> list[torch.Tensor]:
    model = Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return [model(torch.tensor([tokens])).logits[0] for tokens in sequences]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, **SHAPES[shape])
    decoder = load_decoder(directory)
    sequences = random_sequences(decoder.config.vocab_size, [1, 21, 37, 150, 64, 200])
    assert max(map(len, sequences)) > 3 * 64, "YaRN must be exercised beyond its original length"
    for ours, theirs in zip(run_mixed(decoder, sequences), reference_logits(directory, sequences), strict=True):
        assert theirs.std() > 0.3, "the reference must say something"
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(dtype: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, heads=8, kv_heads=2)
    decoder = load_decoder(directory, dtype)
    sequences = random_sequences(decoder.config.vocab_size, [30, 60])
    for ours, theirs in zip(run_mixed(decoder, sequences), reference_logits(directory, sequences), strict=True):
        assert ours.dtype == torch.float32
        error = (ours - theirs).abs().mean() / theirs.std()
        assert 0 < error < (0.02 if dtype == "bfloat16" else 0.003)
