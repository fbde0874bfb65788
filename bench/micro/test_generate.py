"""Tokens per second under budgets, end to end: with `models/s1-nano`, or a random model where that is absent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine import Engine, SamplingParams
from engine.thinking.plan import PRESETS

NANO = Path(__file__).resolve().parents[2] / "models" / "s1-nano"
TOKENS = 64
CASES = {
    "no_thinking": SamplingParams(max_tokens=TOKENS, ignore_eos=True, thinking_format="none"),
    "budget": SamplingParams(max_tokens=TOKENS, ignore_eos=True, thinking_token_budget=32),
    "budget_and_waits": SamplingParams(
        max_tokens=TOKENS, ignore_eos=True, thinking_token_budget=32, thinking_extensions=2
    ),
}


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(
        NANO if (NANO / "config.json").exists() else folder, device="cpu", max_num_seqs=16, max_model_len=256
    ) as running:
        yield running


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("case", CASES)
def test_generate(benchmark: BenchmarkFixture, engine: Engine, case: str, batch: int) -> None:
    """`batch` requests of exactly 64 tokens each."""
    encode = engine.tokenizer.encode
    prompts = [encode(f"{i} + {i} = ") + encode(PRESETS["s1"].opener, specials=True) for i in range(batch)]
    outputs = benchmark(engine.generate, prompts, CASES[case])
    benchmark.extra_info["tok_s"] = batch * TOKENS / benchmark.stats["median"] if benchmark.stats else None
    assert [len(o.outputs[0].token_ids) for o in outputs] == [TOKENS] * batch
