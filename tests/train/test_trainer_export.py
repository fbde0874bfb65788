"""What a run has learned is in what it exports: bfloat16 where it keeps that, float32 where it would not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.rounding import decoder_roundings, likely
from tests.train.support import trainer, write_config, write_model, write_tokens
from train.huggingface import kept_by_rounding

LENGTHS = [12, 30, 7, 25, 18, 9, 40, 15]
LORA = {"lora": {"rank": 4, "alpha": 8}}


@pytest.mark.parametrize("tree", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("lr", "dtype"), [(1e-5, "float32"), (3e-2, "bfloat16")], ids=["short", "long"])
def test_an_export_keeps_what_was_learned(
    tree: dict[str, Any], lr: float, dtype: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = write_model(tmp_path / "model", dtype=torch.bfloat16)
    data, held = write_tokens(tmp_path / "data.jsonl", LENGTHS), write_tokens(tmp_path / "held.jsonl", LENGTHS[:6])
    tree = {"optim": {"lr": lr}, "data": {"heldout": [str(held)]}, "epochs": 2, **tree}
    config = write_config(tmp_path / "run.yaml", base, data, **tree)
    run = trainer(config)
    run.fit()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    before, learned = records[0]["heldout_loss"], records[0]["heldout_loss"] - records[-1]["heldout_loss"]
    export = tmp_path / "run" / "export"
    assert json.loads((export / "config.json").read_text())["dtype"] == dtype
    said = capfd.readouterr().err
    assert "of what was learned" in said and ("in float32: bfloat16 keeps" in said) == (dtype == "float32")

    again = trainer(config, f"model.path={export}", "lora=null", f"run={tmp_path}/again")
    off = 2 * likely(decoder_roundings(run.arch, max(LENGTHS)) + run.arch.vocab_size) * before
    kept = before - again.evaluate(again.heldout)
    assert kept == pytest.approx(learned, abs=float(off) if dtype == "float32" else 0.1 * abs(learned))


def test_a_base_in_float32_stays_in_it(tmp_path: Path) -> None:
    """Rounding it would change it by more than the run has, and as often up as down: the shares would say nothing."""
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    run = trainer(write_config(tmp_path / "run.yaml", base, data))
    assert run.export_dtype()[0] is torch.float32
    assert {tensor.dtype for tensor in load_file(next(base.glob("*.safetensors"))).values()} == {torch.float32}


def test_rounding_takes_a_short_tune_back(tmp_path: Path) -> None:
    """A share of what was learned, which is what is seen in the file: weights in bfloat16 that have not moved."""
    base = write_model(tmp_path / "model", dtype=torch.bfloat16)
    data = write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(
        tmp_path / "run.yaml", base, data, optim={"lr": 1e-6}, checkpoint={"export_dtype": "bfloat16"}
    )
    run = trainer(config)
    assert kept_by_rounding(run.model, base, torch.bfloat16) == 1, "nothing was learned yet"
    run.fit()
    assert kept_by_rounding(run.model, base, torch.float32) == pytest.approx(1)
    assert kept_by_rounding(run.model, base, torch.bfloat16) < 0.2
    was, now = (load_file(next(folder.glob("*.safetensors"))) for folder in (base, tmp_path / "run" / "export"))
    moved = sum(int((was[name] != now[name]).sum()) for name in was) / sum(value.numel() for value in was.values())
    assert moved < 0.1


def test_auto_is_what_the_processor_multiplies(tmp_path: Path) -> None:
    from kernels.native import library as native
    from train.config import load_config
    from train.parallel import resolved

    config = write_config(tmp_path / "run.yaml", tmp_path, tmp_path / "data.jsonl", compute={"dtype": "auto"})
    fast = native.LOADED and native.LEVEL == "avx512_bf16"
    assert resolved(load_config(config), torch.device("cpu")).compute.dtype == ("bfloat16" if fast else "float32")
    assert resolved(load_config(config, ["compute.dtype=bfloat16"]), torch.device("cpu")).compute.dtype == "bfloat16"


@pytest.mark.parametrize(("major", "dtype"), [(7, "float32"), (8, "bfloat16"), (9, "bfloat16")])
def test_auto_on_a_gpu_is_what_it_multiplies_itself(
    major: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards before Ampere imitate bfloat16, which torch calls support. The card is a stand-in, the rule is torch's."""
    from train.config import load_config
    from train.parallel import resolved

    card = SimpleNamespace(major=major)
    for name, said in {"is_available": True, "current_device": 0, "get_device_properties": card}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, said=said: said)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    config = write_config(tmp_path / "run.yaml", tmp_path, tmp_path / "data.jsonl", compute={"dtype": "auto"})
    assert resolved(load_config(config), torch.device("cuda")).compute.dtype == dtype
