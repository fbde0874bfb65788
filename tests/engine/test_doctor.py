"""`python -m engine.doctor` and the engine's first lines: what fits is what the engine makes, slow paths are named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine import Engine
from engine import capabilities as capabilities_of
from engine.capabilities import limits_of, routes
from engine.config import EngineConfig
from engine.doctor import main
from engine.examination import examine
from engine.model.config import ModelConfig
from kernels.gemm_choices import FOLDED, Choice, Product, write_choices
from kernels.limits import H200, matrices
from kernels.native import library as native
from kernels.small_gemm import GemmConfig
from tests.checkpoints import write_random_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("doctor"))


def slow(dtype: torch.dtype = torch.bfloat16, **fields: Any) -> list[str]:
    return [f"{r.operator}: {r.why}" for r in routes(EngineConfig(**fields), dtype, CPU) if r.slow]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_cache_dtype": "fp8", "max_num_seqs": 7},
        {"kv_cache_tokens": 100, "max_model_len": 64},
        {"quantization": "int8", "dtype": "bfloat16", "page_size": 5},
    ],
)
def test_what_fits_is_what_the_engine_makes(options: dict[str, Any], checkpoint: Path, capsys: Any) -> None:
    flags = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert main([str(checkpoint), "--device", "cpu", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    with Engine(checkpoint, device="cpu", **options) as engine:
        assert found["fits"]["pages"] == engine.stats()["pages_total"]
        assert found["fits"]["context"] == engine.context
        decoder = engine._host.core.runner.model
        assert found["fits"]["kv_bytes_per_token"] == decoder.kv_bytes_per_token
    assert found["model"]["parameters"] == decoder.config.num_parameters


def test_a_name_is_no_markup(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "[bold]name").symlink_to(checkpoint)
    assert main([str(tmp_path / "[bold]name"), "--device", "cpu"]) == 0
    assert "[bold]name: " in capsys.readouterr().out


def test_the_report_for_a_person(checkpoint: Path, capsys: Any) -> None:
    assert main([str(checkpoint), "--device", "cpu"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("processor", "GPU", "native CPU library", "pages", "context", "least time of a step"):
        assert part in text
    assert ("products" if native.LOADED else "slow: torch definitions") in text
    assert checkpoint.name in text


def test_bad_configurations_are_one_line(checkpoint: Path, capsys: Any) -> None:
    for flags, message in (
        (["--tensor-parallel-size", "3"], "does not split"),
        (["--quantization", "int4"], "quantization is 'int4'"),
        (["--one-shot-all-reduce"], "one_shot_all_reduce is set"),
    ):
        assert main([str(checkpoint), "--device", "cpu", *flags]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.skipif(not native.LOADED, reason=native.REASON)
def test_slow_paths_of_a_cpu_are_named() -> None:
    assert slow() == [] or native.LEVEL == "portable"
    assert any("float16" in line or "--dtype bfloat16" in line for line in slow(torch.float16))
    assert any("float8 cache" in line for line in slow(kv_cache_dtype="fp8"))
    assert any("--quantization int8" in line for line in slow(quantization="fp8"))


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LOADED", False)
    monkeypatch.setattr(native, "REASON", "the native CPU library was not built (no C++ compiler at install time)")
    assert slow() == ["all: the native CPU library was not built (no C++ compiler at install time)"]


def test_slow_paths_of_a_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions alone, on a described GPU; nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = SimpleNamespace(type="cuda")

    def lines(**fields: Any) -> list[str]:
        return [r.operator for r in routes(EngineConfig(**fields), torch.bfloat16, cuda) if r.slow]

    assert lines() == [] and lines(quantization="fp8") == []
    assert lines(quantization="int8", max_num_seqs=65) == ["int8 products beyond 64 tokens"]
    assert lines(step_graphs="off") == ["decode steps"]
    assert lines(max_num_seqs=300) == ["larger decode steps"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert lines() == ["tiles"]
    monkeypatch.setenv("S1_GEMM_TABLE", "dependent")
    assert lines() == ["tiles", "dependent launches"]


@pytest.mark.parametrize(
    "content, says", [(None, "No such file"), ("{", "JSONDecodeError"), ('[{"device": "x"}]', "KeyError: 'product'")]
)
def test_a_table_of_products_that_is_none_is_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    """Found when the engine is made, on a CPU too."""
    table = tmp_path / "table.json"
    if content is not None:
        table.write_text(content)
    command = [sys.executable, "-m", "engine.doctor", "--device", "cpu"]
    environment = {**os.environ, "S1_GEMM_TABLE": str(table)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{table} is no table of products" in done.stderr and says in done.stderr and "plain" in done.stderr


def test_which_product_was_chosen_and_why(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows of the table in use for this GPU, this model's shapes and the type of its weights."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda, model = SimpleNamespace(type="cuda"), ModelConfig.load(checkpoint, "bfloat16")

    def told(**fields: Any) -> dict[str, str]:
        found = routes(EngineConfig(**fields), torch.bfloat16, cuda, model)  # type: ignore[arg-type]
        return {route.operator: route.why for route in found}

    assert told()["products"].startswith("no shape was measured on this GPU: python -m bench.gemm --output")
    assert "products" not in told(quantization="int8") and "head" in told(quantization="fp8")
    monkeypatch.setenv("S1_GEMM_TABLE", "plain")
    assert told()["products"] == "S1_GEMM_TABLE=plain"
    for rule in FOLDED:
        monkeypatch.setenv("S1_GEMM_TABLE", rule)
        assert told()["layers' products"] == f"S1_GEMM_TABLE={rule}: up to 64 rows, tiles that were not measured"
    down = Choice("NVIDIA H200", Product.PLAIN, 64, 96, 8, GemmConfig(), 3.0, 4.5)
    rows = [
        down,
        replace(down, tokens=64, least=33, ours_us=4.0),
        replace(down, weight="int8", ours_us=2.0),
        replace(down, device="NVIDIA H100"),
        replace(down, in_features=97),
    ]
    write_choices(rows, tmp_path / "table.json")
    monkeypatch.setenv("S1_GEMM_TABLE", str(tmp_path / "table.json"))
    assert told()["products"] == "4 rows of the table are for this GPU"
    assert told()["down, 64 x 96"] == (
        "1 to 8 rows ours, 3.0 us, cuBLAS 4.5; 33 to 64 rows ours, 4.0 us, cuBLAS 4.5; the rest cuBLAS"
    )
    assert told(quantization="int8")["down, 64 x 96"] == (
        "1 to 8 rows ours, 2.0 us, default tiles 4.5; the rest ours, default tiles"
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_product_of_a_rank_is_found_in_the_table(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """By hand: 64 wide, four query heads and two of keys of 16 values, an MLP of 96."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    model = ModelConfig.load(checkpoint, "bfloat16")
    shapes = {
        "qkv": (Product.PLAIN, 128 // ranks, 64),
        "o": (Product.PLAIN, 64, 64 // ranks),
        "gate_up": (Product.GATED, 192 // ranks, 64),
        "down": (Product.PLAIN, 64, 96 // ranks),
        "head": (Product.HEAD, -(-model.vocab_size // ranks), 64),
    }
    rows = [Choice("NVIDIA H200", kind, *size, 8, GemmConfig(), 3.0, 4.5) for kind, *size in shapes.values()]
    write_choices(rows, tmp_path / "table.json")
    monkeypatch.setenv("S1_GEMM_TABLE", str(tmp_path / "table.json"))
    for quantization, named in (("none", set(shapes)), ("fp8", {"head"}), ("int8", set())):
        config = EngineConfig(quantization=quantization, tensor_parallel_size=ranks)
        found = routes(config, torch.bfloat16, SimpleNamespace(type="cuda"), model, ranks)  # type: ignore[arg-type]
        told = {route.operator for route in found if "as measured" in route.runs}
        assert told == {f"{name}, {shapes[name][1]:,} x {shapes[name][2]:,}" for name in named}


def test_limits_of_8_bit_modes(checkpoint: Path) -> None:
    model = ModelConfig.load(checkpoint, "bfloat16")
    own = limits_of(EngineConfig(), model, H200, 1)
    half = limits_of(EngineConfig(quantization="int8", kv_cache_dtype="fp8"), model, H200, 1)
    *layers, head = matrices(model)
    assert own.streamed_bytes - half.streamed_bytes == sum(m.params for m in layers) + head.params
    fp8 = limits_of(EngineConfig(quantization="fp8"), model, H200, 1)
    assert own.streamed_bytes - fp8.streamed_bytes == sum(m.params for m in layers), "its head keeps 16 bits"
    assert half.streamed_bytes > 2 * head.params, "the head stays in 16 bits"
    assert half.kv_bytes_per_token * 2 == own.kv_bytes_per_token


def test_a_model_in_the_caches_has_no_predicted_limit(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"step_graphs": "on", "capture_at_start": True, "max_num_seqs": 2}
    config = EngineConfig(model=str(checkpoint), device="cpu", dtype="float32")
    with Engine(config=config, **options) as engine:
        lines = engine.start_lines()
        assert "of weights per step" in lines[0] and "limit" not in lines[0]
        assert lines[1].startswith("4 decode steps captured")
        if native.LOADED:
            monkeypatch.setattr(capabilities_of, "_LEAST_CACHE", 0)
            monkeypatch.setattr(capabilities_of, "_cache_bytes", lambda: 0)
            assert engine.start_lines() == lines, "a start measures nothing"
            assert examine(config)["limit"]["of"].startswith("this CPU, which reads")
