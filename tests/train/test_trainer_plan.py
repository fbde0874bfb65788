"""The plan's row for this machine's CPU, which is measured, and its way out without the model."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.hub_server import use_hub
from tests.train.support import ROOT, trainer, write_config, write_model, write_tokens
from train.architecture import Architecture
from train.cpu_rate import MOST_PARAMETERS, CpuRate, cpu_rate, smaller
from train.plan import main, report

RECIPES = ROOT / "train" / "recipes"
B32 = RECIPES / "qwen2.5_32b.json"


def test_a_model_that_is_not_at_hand_needs_its_shape_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    plan = [str(RECIPES / "s1_32b_16xh100.yaml"), "--lengths", "s1k"]
    assert main(plan) == 2
    said = capfd.readouterr().err
    assert "model.path: model 'Qwen/Qwen2.5-32B-Instruct' is no directory and cannot be fetched" in said
    assert said.endswith("for a plan its shape is enough: --shape CONFIG.json\n") and said.count("\n") == 1
    assert main([*plan, "--shape", str(B32)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ranks", "0"], "--ranks is 0; give 1 or more"),
        (["--ranks", "-2"], "--ranks is -2; give 1 or more"),
        (["--lengths", "nope"], "--lengths is nope, which cannot be read (No such file or directory); give a file"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(RECIPES / "s1_32b_16xh100.yaml"), "--shape", str(B32), *flags]) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1


def test_small_runs_are_told_in_seconds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_tokens(tmp_path / "data.jsonl", [40, 60, 50, 30])
    assert main([str(write_config(tmp_path / "run.yaml", write_model(tmp_path / "model"), data))]) == 0
    said = capfd.readouterr().out
    assert " 0.0 " not in said.partition("\ntime ")[2] and re.search(r"1 x H100 +\d[\de.-]+ seconds, fits", said)
    assert re.search(r"this CPU +[\de.-]+ seconds, fits", said)


def test_minutes_on_this_cpu_follow_from_the_rate(tmp_path: Path) -> None:
    data = write_tokens(tmp_path / "data.jsonl", [40, 60, 50, 30])
    run = trainer(write_config(tmp_path / "run.yaml", write_model(tmp_path / "model"), data, epochs=3))
    text = report(run.config, run.arch, run.data.lengths, 1, "x", CpuRate(2e5, "float32", 2))
    flops = 3 * run.arch.training_flops(run.data.lengths.tolist())
    (row,) = re.findall(
        r"this CPU +([\d.,]+) minutes, fits; 0\.0 GFLOP/s in float32, 2 thread\(s\): measured now", text
    )
    assert float(row.replace(",", "")) == pytest.approx(flops / 2e5 / 60, abs=0.05)
    large = report(run.config, Architecture.load(B32), run.data.lengths, 1, "x", CpuRate(2e9, "float32", 2))
    assert re.search(r"this CPU .* does NOT fit its \d+ GB", large)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_the_rate_is_that_of_training(lora: object, tmp_path: Path) -> None:
    """Twice and more off are the noise of a busy machine; ten times would be another quantity."""
    shape = {"hidden": 128, "heads": 4, "kv_heads": 2, "intermediate": 384, "layers": 4, "vocab": 768}
    data = write_tokens(tmp_path / "data.jsonl", [200] * 16, vocab=768)
    tree = {"data": {"batch_size": 16}, "epochs": 3, "lora": lora}
    run = trainer(write_config(tmp_path / "run.yaml", write_model(tmp_path / "model", **shape), data, **tree))
    rate = cpu_rate(run.config, run.arch, run.data.lengths)
    seconds = min(run.train_step(step)["seconds"] for step in range(3))
    real = run.arch.training_flops(run.data.lengths.tolist(), frozen=lora is not None) / seconds
    assert 0.1 < rate.flops / real < 10 and rate.dtype == "float32"


def test_what_is_timed_is_small_and_alike() -> None:
    whole = Architecture.load(B32)
    small = smaller(whole)
    assert small.num_parameters < 3 * MOST_PARAMETERS and small.num_layers == 1
    ratios = [(a.intermediate_size / a.hidden_size, a.num_heads / a.num_kv_heads, a.head_dim) for a in (whole, small)]
    np.testing.assert_allclose(*ratios, rtol=0.05)
    nano = Architecture.load(ROOT / "models" / "s1-nano")
    assert smaller(nano) == nano
