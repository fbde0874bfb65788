"""The mixed batch: never a token over budget, and an answer that starts after its thinking."""

import pytest
from rich.console import Console

from bench import budgets
from bench.budgets import make_plans, serve
from bench.checkpoints import checkpoint
from bench.record import read
from bench.shapes import SHAPES
from engine import Engine


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def test_a_mixed_batch_keeps_every_budget(cache):
    options = budgets.Options(shape="tiny", batch=6, budget=(8, 24, 64), context=12, extensions=1)
    folder = checkpoint(cache, SHAPES["tiny"])
    with Engine(folder, device="cpu", dtype="float32", max_num_seqs=6, max_model_len=512) as engine:
        plans = make_plans(engine, options, seed=2)
        served, seconds = serve(engine, plans)
        outputs = engine.generate([plan.prompt for plan in plans], [plan.native() for plan in plans])
    assert [one.budget for one in served] == [8, 24, 64, 8, 24, 64]
    for one, output in zip(served, outputs, strict=True):
        sample = output.outputs[0]
        assert (one.thinking, one.tokens) == (sample.thinking.tokens, len(sample.token_ids))
        assert one.overshoot == 0 and 0 < one.first_answer_s <= one.total_s <= seconds


def test_the_command_prints_and_records_the_mixed_batch(cache, tmp_path):
    options = budgets.Options(
        shape="tiny",
        batch=4,
        budget=(8, 16),
        context=8,
        rounds=1,
        answer=8,
        device="cpu",
        threads=1,
        cache=cache,
        output=tmp_path / "out.jsonl",
    )
    console = Console(record=True, width=120)
    budgets.run(options, console)
    last = read(tmp_path / "out.jsonl")[-1]
    assert last.benchmark == "budgets_mixed" and last.figures["overshoot_tokens"] == 0
    assert last.figures["first_answer_s_8"] > 0 and last.figures["tokens_per_s"] > 0
    assert "first answer token" in console.export_text()
