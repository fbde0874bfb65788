"""A LoRA in PEFT's format, added while weights are loaded: what a merge by hand gives, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine import Engine, EngineConfig, InputError
from engine.model import weights
from engine.model.adapter import Adapter
from engine.model.config import ModelConfig
from engine.model.fingerprint import fingerprint
from engine.model.shard import Shard
from kernels.quantize import QuantizedMatrix
from tests.checkpoints import write_random_checkpoint
from tests.engine.test_engine import PLAIN, prompts_of, tokens

CPU = torch.device("cpu")
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(base, adapter that PEFT has written, the same merged by hand in float32, to be run in the base's dtype)."""
    folder, dtype = tmp_path_factory.mktemp(request.param), getattr(torch, request.param)
    base = write_random_checkpoint(folder / "base", dtype=dtype, kv_heads=2, heads=4, layers=3)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(folder / "adapter")
    stored, added = load_file(base / "model.safetensors"), load_file(folder / "adapter" / "adapter_model.safetensors")
    for name, value in stored.items():
        a, b = (added.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight") for x in "AB")
        if a is not None and b is not None:
            stored[name] = value.float() + 7 / 3 * (b @ a)
    by_hand = write_random_checkpoint(folder / "merged", dtype=dtype, kv_heads=2, heads=4, layers=3)
    save_file(stored, by_hand / "model.safetensors", metadata={"format": "pt"})
    return base, folder / "adapter", by_hand


@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"quantization": "fp8", "kv_cache_dtype": "fp8"}])
def test_tokens_of_a_merge_by_hand(places: tuple[Path, Path, Path], options: dict[str, Any]) -> None:
    base, adapter, by_hand = places
    prompts = prompts_of(300, (5, 17, 30))

    def written(model: Path, **more: Any) -> list[list[int]]:
        with Engine(model, device="cpu", kv_cache_tokens=1024, **options, **more) as engine:
            return tokens(engine.generate(prompts, PLAIN))

    plain, adapted = written(base), written(base, adapter=str(adapter))
    assert adapted != plain and adapted == written(by_hand)


@pytest.mark.parametrize("codes", [None, torch.int8])
def test_ranks_hold_slices_of_the_merge(places: tuple[Path, Path, Path], codes: torch.dtype | None) -> None:
    base, adapter, by_hand = places
    config = ModelConfig.load(base)
    for rank in range(2):
        shard = Shard.of(config, rank, 2)
        ours = weights.load(base, config, shard, CPU, codes, Adapter.load(adapter))
        theirs = weights.load(by_hand, config, shard, CPU, codes)
        for mine, own in zip(ours.layers, theirs.layers, strict=True):
            for name in ("qkv", "output", "gate_up", "down"):
                a, b = getattr(mine, name), getattr(own, name)
                assert torch.equal(a.codes, b.codes) if isinstance(a, QuantizedMatrix) else torch.equal(a, b), name


def test_an_adapter_is_part_of_what_a_model_is(places: tuple[Path, Path, Path]) -> None:
    base, adapter, _ = places
    assert fingerprint(base) != fingerprint(base, str(adapter)) == fingerprint(base, str(adapter))
    assert EngineConfig(adapter=str(adapter)).decisive == EngineConfig().decisive, "where it lies does not matter"


def changed(folder: Path, settings: dict[str, Any], edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A small adapter with other settings and tensors."""
    folder.mkdir()
    a, b = torch.ones(2, 64), torch.ones(64, 2)
    tensors = {f"{PREFIX}.lora_A.weight": a, f"{PREFIX}.lora_B.weight": b}
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "edit", "message"),
    [
        ({"peft_type": "IA3"}, dict, "adapter_config.json: peft_type is 'IA3'; LORA is what is read"),
        ({"r": 0}, dict, "r is 0; give a whole number from 1"),
        ({"lora_alpha": "16"}, dict, "lora_alpha is '16'; give a number"),
        ({"bias": "all"}, dict, "bias is 'all'; adapters with biases"),
        ({"use_dora": True}, dict, "use_dora is set, which is not supported; merge this adapter with PEFT"),
        ({"rank_pattern": {"q_proj": 4}}, dict, "rank_pattern is set"),
        ({"modules_to_save": ["lm_head"]}, dict, "modules_to_save is set"),
        ({"alora_invocation_tokens": [5, 6]}, dict, "alora_invocation_tokens is set"),
        ({"init_lora_weights": "pissa"}, dict, "init_lora_weights is 'pissa', which changes the base as well"),
        ({"init_lora_weights": ["olora"]}, dict, r"init_lora_weights is \['olora'\], which changes the base"),
        ({"r": 5}, dict, r"has lora_A \[2, 64\] and lora_B \[64, 2\], and adapter_config.json says r is 5"),
        ({}, lambda t: t.clear(), "holds no tensor"),
        ({}, lambda t: t.popitem(), "has one of lora_A and lora_B alone"),
        ({}, lambda t: t.update({f"{PREFIX}.lora_magnitude": torch.ones(3)}), "is no part of a LoRA of linear layers"),
        (
            {},
            lambda t: t.update({k.replace("layers.0", "layers.9"): v.clone() for k, v in list(t.items())}),
            "the adapter changes model.layers.9.self_attn.q_proj.weight, which the model has not",
        ),
        (
            {},
            lambda t: t.update({f"{PREFIX}.lora_B.weight": torch.ones(32, 2)}),
            "the adapter's model.layers.0.self_attn.q_proj.weight is 32 x 64, and the model's 64 x 64",
        ),
    ],
)
def test_refused(settings: dict[str, Any], edit: Any, message: str, tmp_path: Path) -> None:
    base = write_random_checkpoint(tmp_path / "base")
    with pytest.raises(InputError, match=message) as caught:
        Engine(base, device="cpu", adapter=str(changed(tmp_path / "adapter", settings, edit)))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    base = write_random_checkpoint(tmp_path / "base")
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        Engine(base, device="cpu", adapter=str(tmp_path))
    whole = changed(tmp_path / "adapter", {}, dict)
    (whole / "adapter_model.safetensors").write_bytes(b"no header")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        Engine(base, device="cpu", adapter=str(whole))
    with pytest.raises(InputError, match="adapter is set and load_format is dummy"):
        EngineConfig(adapter="x", load_format="dummy")


def test_the_command_line_takes_one(places: tuple[Path, Path, Path]) -> None:
    base, adapter, by_hand = places
    ask = [
        sys.executable,
        "-m",
        "engine.generate",
        "--prompt",
        "Hi",
        "--max-tokens",
        "8",
        "--thinking-format",
        "none",
        "--device",
    ]
    ran = [
        subprocess.run([*ask, "cpu", "--model", *model], capture_output=True, text=True, check=True).stdout
        for model in ([str(base), "--adapter", str(adapter)], [str(by_hand)])
    ]
    assert ran[0] == ran[1] != ""
