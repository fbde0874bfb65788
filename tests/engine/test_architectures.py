"""Qwen3 and Llama on shapes drawn at random, against transformers: every schedule, two ranks, budgets."""

import random
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from tests.checkpoints import write_random_checkpoint
from tests.engine.shapes import LLAMA, LLAMA3, QWEN3
from tests.engine.test_engine import LENGTHS, PLAIN, behind_transformers, prompts_of, tokens

SHAPES = 12


def drawn(architecture: str, number: int) -> dict[str, Any]:
    """GQA of 1, 2 and 8, heads whose widths do not add up to the hidden size, long RoPE scaling for every third."""
    chance = random.Random(f"{architecture} {number}")
    kv_heads, group = chance.choice([(1, 8), (2, 2), (2, 1), (4, 2), (1, 1), (2, 8)][number % 3 :: 3])
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
    long = {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 32} if architecture == LLAMA else yarn
    return {
        "architecture": architecture,
        "hidden": kv_heads * group * chance.choice([4, 6, 10]) * (2 if kv_heads * group < 8 else 1),
        "layers": chance.randrange(1, 4),
        "heads": kv_heads * group,
        "kv_heads": kv_heads,
        "head_dim": chance.choice([16, 24, 32, 64]),
        "intermediate": chance.choice([96, 100, 160]),
        "tied": chance.random() < 0.5,
        "theta": chance.choice([1e4, 5e5, 1e6]),
        "rope_scaling": long if number % 3 == 0 else None,
        "max_positions": 256,
        "transformers_version": 4 + number % 2,
        "seed": number,
    }


CASES = [
    pytest.param(architecture, number, marks=[] if number == 0 else pytest.mark.slow)
    for architecture in (QWEN3, LLAMA)
    for number in range(SHAPES)
]
"""The first of each in CI, beside those of `shapes.py`."""


@pytest.mark.parametrize(("architecture", "number"), CASES)
def test_greedy_tokens_equal_transformers(architecture: str, number: int, tmp_path: Path) -> None:
    """64 tokens of six uneven prompts: batched, in chunks of 16, a pool for one and a half sequences."""
    directory = write_random_checkpoint(tmp_path, **drawn(architecture, number))
    with Engine(directory, device="cpu", dtype="float32", kv_cache_tokens=272, max_num_batched_tokens=16) as engine:
        vocab = engine.tokenizer.size
        prompts = prompts_of(vocab, LENGTHS, number)
        ours = tokens(engine.generate(prompts, PLAIN))
        assert engine.stats()["preemptions"] > 0
    assert behind_transformers(directory, prompts, ours, vocab) <= 1
    with Engine(directory, device="cpu", dtype="float32", max_num_seqs=1) as engine:
        assert tokens(engine.generate(prompts, PLAIN)) == ours, "one at a time"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [QWEN3, LLAMA])
@pytest.mark.parametrize("number", range(SHAPES))
def test_two_ranks_write_the_same(architecture: str, number: int, tmp_path: Path) -> None:
    shape = drawn(architecture, number)
    if shape["heads"] == 1:
        shape["heads"] = shape["kv_heads"] = 2
    directory = write_random_checkpoint(tmp_path, **shape)
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "tensor_parallel_size": 2}
    with Engine(directory, **options) as engine:
        vocab = engine.tokenizer.size
        prompts = prompts_of(vocab, LENGTHS, number)
        ours = tokens(engine.generate(prompts, PLAIN))
    assert behind_transformers(directory, prompts, ours, vocab) <= 1
