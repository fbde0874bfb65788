"""Models in 8 bits: how far their logits are from the model's own, on random checkpoints, and that engines run them.

Random weights are the hard case: no direction is learnt, so every error shows in the logits.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.statistics import wilson
from curate.families import check
from curate.families.distinct import draw_distinct
from engine import Engine, SamplingParams
from engine.build import precision
from engine.config import EngineConfig
from engine.model import weights
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.model.shard import Shard
from engine.model.weights import Precision, Weights
from engine.ranks.group import Group
from kernels.quantize import FLOAT8, QuantizedMatrix
from tests.checkpoints import write_random_checkpoint
from tests.engine.shapes import QWEN3
from tests.engine.steps import random_sequences, run_mixed

CPU = torch.device("cpu")
S1_NANO = Path(__file__).parents[2] / "models" / "s1-nano"
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"layers": 2},
    "wide": {"hidden": 256, "heads": 4, "kv_heads": 2, "intermediate": 512, "layers": 4},
    "gqa7": {"hidden": 112, "heads": 14, "kv_heads": 2, "tied": True, "layers": 3},
    "qwen3": {"architecture": QWEN3, "hidden": 256, "heads": 8, "kv_heads": 2, "head_dim": 64, "layers": 3},
}
BOUNDS: dict[str, tuple[Precision, float, float]] = {
    "int8": (Precision(torch.int8), 0.04, 0.0008),
    "fp8": (Precision(FLOAT8), 0.12, 0.008),
    "fp8 KV": (Precision(None, FLOAT8), 0.08, 0.003),
    "int8, fp8 KV": (Precision(torch.int8, FLOAT8), 0.085, 0.0035),
}
"""(what is in 8 bits, bound of the logits' relative error, of the mean Kullback-Leibler divergence in nats)"""


def logits_of(directory: Path, dtype: str, what: Precision) -> torch.Tensor:
    config = ModelConfig.load(directory, dtype)
    decoder = Decoder.load(directory, config, Group.single(CPU), 512, precision=what)
    assert decoder.kv_dtype is (what.kv or config.dtype)
    return torch.cat(run_mixed(decoder, random_sequences(config.vocab_size, [40, 57, 80])))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_stay_within_their_bounds(shape: str, dtype: str, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, **SHAPES[shape])
    own = logits_of(directory, dtype, Precision())
    for name, (what, most, divergence) in BOUNDS.items():
        found = logits_of(directory, dtype, what)
        relative = float((found - own).norm() / own.norm())
        log_p, log_q = torch.log_softmax(own, 1), torch.log_softmax(found, 1)
        kl = float((log_p.exp() * (log_p - log_q)).sum(1).mean())
        assert 0.002 < relative < most and kl < divergence, (name, relative, kl)


@pytest.mark.parametrize("codes", [torch.int8, FLOAT8])
def test_ranks_hold_slices_of_one_rounding(codes: torch.dtype, tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, heads=4, kv_heads=2)
    config = ModelConfig.load(directory)

    def load(rank: int, size: int, dummy: bool) -> Weights:
        shard = Shard.of(config, rank, size)
        if dummy:
            return weights.random(config, shard, CPU, 3, codes)
        return weights.load(directory, config, shard, CPU, codes)

    for dummy in (False, True):
        (whole,), (first, second) = ([load(rank, size, dummy).layers[1] for rank in range(size)] for size in (1, 2))
        for matrix, parts in ((whole.down, (first.down, second.down)), (whole.output, (first.output, second.output))):
            assert isinstance(matrix, QuantizedMatrix)
            assert torch.equal(torch.cat([p.codes for p in parts], 1).float(), matrix.codes.float())
            assert all(torch.equal(p.scale, matrix.scale) for p in parts)
        gate, up = whole.gate_up.split((96, 96))
        ours = [part for rank in (first, second) for part in rank.gate_up.split((48, 48))]
        assert torch.equal(torch.cat([ours[0].codes, ours[2].codes]).float(), gate.codes.float())
        assert torch.equal(torch.cat([ours[1].scale, ours[3].scale]), up.scale)


@pytest.mark.parametrize("options", [{"quantization": "int8"}, {"kv_cache_dtype": "fp8", "quantization": "fp8"}])
def test_an_engine_keeps_its_promises_in_8_bits(options: dict[str, Any], tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path)
    config = EngineConfig(model=str(directory), **options)
    own = Decoder.load(directory, ModelConfig.load(directory), Group.single(CPU), 64)
    with Engine(
        config=config, device="cpu", kv_cache_tokens=320, max_num_batched_tokens=16, overlap=True, step_graphs="on"
    ) as engine:
        params = SamplingParams(max_tokens=60, thinking_token_budget=20, thinking_extensions=1, n=2)
        outputs = engine.generate([f"question {i} " * (1 + i % 3) for i in range(8)], params)
        engine.check()
        assert engine.stats()["preemptions"] > 0 and engine.stats()["forks"] > 0
        decoder = engine._host.core.runner.model
        factor = 4 if options.get("kv_cache_dtype") == "fp8" else 1
        assert own.kv_bytes_per_token == factor * decoder.kv_bytes_per_token
    samples = [sample for output in outputs for sample in output.outputs]
    assert all(sample.thinking.tokens <= 20 and sample.token_ids for sample in samples)
    if factor == 1:  # the native path: a row's bits do not depend on batch, chunks or preemption
        assert all(output.outputs[0].token_ids == output.outputs[1].token_ids for output in outputs)


EIGHT_BITS = [{"quantization": "int8", "kv_cache_dtype": "fp8"}]
EACH = [{"quantization": "int8"}, {"quantization": "fp8"}, {"kv_cache_dtype": "fp8"}]


@pytest.mark.parametrize(
    ("modes", "count"), [(EIGHT_BITS, 24), pytest.param(EIGHT_BITS + EACH, 120, marks=pytest.mark.slow)]
)
def test_s1_nano_keeps_its_accuracy(modes: list[dict[str, str]], count: int) -> None:
    """In its own dtype, with one "Wait": the bound is the 95 % interval of what bf16 gets right (Wilson)."""
    questions = draw_distinct("heldout", 2027, count).problems
    params = SamplingParams(max_tokens=560, thinking_token_budget=512, thinking_extensions=1)

    def right(**options: str) -> int:
        with Engine(S1_NANO, device="cpu", dtype="bfloat16", max_num_seqs=64, **options) as engine:
            answers = [out.outputs[0].answer for out in engine.generate([q.prompt for q in questions], params)]
        return sum(check(q.family, q.prompt, answer) for q, answer in zip(questions, answers, strict=True))

    own = right()
    low, high = wilson(own, len(questions))
    assert 0.7 < own / len(questions) <= 0.96
    for options in modes:
        assert low <= right(**options) / len(questions) <= high, options


def test_the_names_of_8_bits() -> None:
    assert precision(EngineConfig()) == Precision()
    assert precision(EngineConfig(quantization="int8", kv_cache_dtype="fp8")) == Precision(torch.int8, FLOAT8)
    assert precision(EngineConfig(quantization="fp8")) == Precision(FLOAT8)
