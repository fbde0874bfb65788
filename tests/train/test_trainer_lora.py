"""LoRA: T14."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from tests.rounding import UNIT, decoder_roundings, gamma, likely
from tests.train.support import trainer, trajectory, write_config, write_model, write_tokens
from tests.train.two_ranks import first_step

LENGTHS = [12, 30, 7, 25, 18, 9, 40, 15]


def test_lora_starts_at_the_base_and_merges_to_its_adapter(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    tree = {"epochs": 3, "lora": {"rank": 4, "alpha": 8}, "checkpoint": {"export_dtype": "float32"}}
    config = write_config(tmp_path / "run.yaml", model, data, **tree)
    without = trainer(config, "lora=null")
    base, _, _ = first_step(without)
    run = trainer(config)
    assert {n.split(".")[-2] for n, p in run.model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    run.fit()
    losses = [step[2] for step in trajectory(tmp_path / "run")]
    off = 2 * likely(decoder_roundings(without.arch, max(LENGTHS)) + without.arch.vocab_size)
    assert losses[0] == pytest.approx(base, rel=off) and losses[-1] < losses[0] - 0.02

    # PEFT's own merge, in float64: all that is left between it and the export is rounding of known size.
    original = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    ids = torch.arange(40)[None] % 96
    with torch.no_grad():
        before = original(ids).logits.clone()
        adapted = peft.PeftModel.from_pretrained(original, tmp_path / "run" / "adapter")
        assert (adapted(ids).logits - before).abs().max() > 1e-2, "the adapter does nothing"
    stored = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    exact = adapted.merge_and_unload().state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export", dtype=torch.float32).state_dict()
    rank, scale = 4, 8 / 4
    for name, weight in exported.items():
        bound = UNIT * weight.double().abs()  # the sum's
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{prefix}A.weight" in stored:  # the product's rank terms and its scale, then half an ulp of the sum
            product = stored[f"{prefix}B.weight"].double().abs() @ stored[f"{prefix}A.weight"].double().abs()
            bound = bound + gamma(rank + 2) * scale * product
        assert ((weight.double() - exact[name]).abs() <= bound).all(), name


def test_lora_resumes_from_what_is_trained(tmp_path: Path) -> None:
    """A checkpoint holds adapters and their moments only; the base comes from model.path again."""
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    unbroken = write_config(tmp_path / "unbroken.yaml", model, data, epochs=3, lora={"rank": 4})
    broken = write_config(tmp_path / "broken.yaml", model, data, epochs=3, lora={"rank": 4})
    trainer(unbroken).fit()
    first = trainer(broken)
    first.told_to_stop = True
    first.fit()
    stored = FileSystemReader(tmp_path / "broken" / "checkpoints" / "step-00000001").read_metadata().state_dict_metadata
    assert stored and all("lora_" in name for name in stored if name.startswith("model."))
    trainer(broken).fit()
    assert trajectory(tmp_path / "broken") == trajectory(tmp_path / "unbroken")
    a, b = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("broken", "unbroken"))
    assert all(a[name].equal(b[name]) for name in b)
    settings = json.loads((tmp_path / "broken" / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["base_model_name_or_path"] == str(model)
