"""The decoder against transformers, step by step, without the engine loop."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.checkpoints import write_random_checkpoint
from tests.engine.shapes import SHAPES
from tests.engine.steps import load_decoder, random_sequences, run_mixed
from tests.rounding import decoder_roundings, likely


def reference_logits(directory: Path, sequences: list[list[int]]) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
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
        # both are wrong by as much
        bound = 2 * likely(decoder_roundings(decoder.config, len(theirs))) * theirs.abs().max()
        torch.testing.assert_close(ours, theirs, atol=float(bound), rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(dtype: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, heads=8, kv_heads=2)
    decoder = load_decoder(directory, dtype)
    sequences = random_sequences(decoder.config.vocab_size, [30, 60])
    for ours, theirs in zip(run_mixed(decoder, sequences), reference_logits(directory, sequences), strict=True):
        assert ours.dtype == torch.float32
        error = (ours - theirs).abs().mean() / theirs.std()
        assert 0 < error < (0.02 if dtype == "bfloat16" else 0.003)
