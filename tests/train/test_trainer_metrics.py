"""What a run reports, and the pictures of it."""

import json
from pathlib import Path

import pytest
import torch

from tests.rounding import decoder_roundings, likely
from tests.train.support import trainer, write_config, write_model, write_tokens
from train.metrics import peak_flops
from train.plot import main as plot_main

LENGTHS = [12, 30, 7, 25, 18, 9, 40, 15, 11]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    model, data = write_model(folder / "model"), write_tokens(folder / "data.jsonl", LENGTHS)
    held = write_tokens(folder / "held.jsonl", LENGTHS[:6])
    tree = {"epochs": 4, "data": {"heldout": [str(held)]}, "metrics": {"progress": True}}
    trainer(write_config(folder / "run.yaml", model, data, **tree)).fit()
    return folder / "run"


def test_every_step_is_reported(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    before = records.pop(0)
    assert before.keys() == {"step", "heldout_loss"} and before["step"] == 0
    assert [r["step"] for r in records] == list(range(1, 13)) and [r["epoch"] for r in records] == [
        i // 3 for i in range(12)
    ]
    first = records[0]
    assert first["lr"] > 0 and first["mfu"] is None and len(first["samples"]) == 4
    assert first["tokens"] == sum(LENGTHS[int(s[1:])] for s in first["samples"]) > first["targets"] > 0
    assert first["tokens_per_second"] == pytest.approx(first["tokens"] / first["seconds"])
    assert 0.05 < first["memory_gb"] < 16
    held = [r["heldout_loss"] for r in records if "heldout_loss" in r]
    assert len(held) == 4 and all(r["loss"] > 0 for r in records)
    assert records[-1]["loss"] < records[0]["loss"]


def test_heldout_loss_is_the_mean_over_targets(run: Path) -> None:
    """On the training file itself, in batches of any size, it is the token mean of the whole file as one step."""
    tree = run.with_name("run.yaml")
    everything = trainer(tree, "data.batch_size=9", "reduction=token_mean", f"run={run.parent}/x")
    off = 2 * likely(decoder_roundings(everything.arch, max(LENGTHS)) + everything.arch.vocab_size + sum(LENGTHS))
    assert everything.evaluate(everything.data) == pytest.approx(everything.train_step(0)["loss"], rel=off)


def test_plot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # still being written
    files = [run / name for name in ("curves.png", "curves.svg", "curves-dark.svg")]
    assert plot_main([str(run)]) == 0 and capsys.readouterr().out.split() == [str(file) for file in files]
    before = [file.read_bytes() for file in files]
    assert before[0][:4] == b"\x89PNG" and before[1] != before[2]
    assert plot_main([str(run)]) == 0 and [file.read_bytes() for file in files] == before, "made alike"
    capsys.readouterr()
    assert plot_main([str(run), "--output", "curves.pdf"]) == 2 and "end it in .png" in capsys.readouterr().err
    assert plot_main([str(run), "--output", str(run / "nowhere/x.png")]) == 2
    assert "choose another place" in capsys.readouterr().err
    assert plot_main([str(run / "nowhere")]) == 2 and "no metrics.jsonl" in capsys.readouterr().err


def interrupted(config: Path, *settings: str) -> None:
    """A run that is stopped after a step and started again."""
    first = trainer(config, *settings, "metrics.progress=false", "heldout_every=2")
    first.told_to_stop = True
    first.fit()
    trainer(config, *settings, "metrics.progress=false", "heldout_every=2").fit()


def test_tensorboard_has_every_step_once(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted(run.with_name("run.yaml"), f"run={tmp_path}/tb", "metrics.tensorboard=true", "metrics.every=5")
    events = EventAccumulator(str(tmp_path / "tb" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4, 5, 6, 8, 10, 12], "every fifth, and held-out ones"
    assert [e.step for e in events.Scalars("heldout_loss")] == [0, 2, 4, 6, 8, 10, 12]


def test_wandb_goes_on_in_the_same_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    interrupted(run.with_name("run.yaml"), f"run={tmp_path}/w", "metrics.wandb=s1-test")
    name = (tmp_path / "w" / "wandb_id").read_text()
    logs = [log.name for log in (tmp_path / "w" / "wandb").glob("offline-run-*")]
    assert len(logs) in (1, 2) and all(log.endswith(name) for log in logs)  # 1: both within a second


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H200 NVL", None),
    ],
)
def test_mfu_is_claimed_only_for_a_card_whose_peak_is_known(monkeypatch, name, peak):
    """A GH200 has "H200" in its name, a PCIe card a lower peak."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == peak
