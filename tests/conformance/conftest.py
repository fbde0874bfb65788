"""Engines on scripted checkpoints, shared by every test that asks for the same script and configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from hypothesis import HealthCheck, settings

from engine import Engine
from kernels import native_step
from tests.conformance.lab import Lab
from tests.conformance.scripted import write_scripted_checkpoint

settings.register_profile(
    "conformance", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("conformance")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

Script = Mapping[str | bytes, Sequence[str | bytes]]


@pytest.fixture
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch definitions of sampler and thinking machine in place of their native twins, in every thread."""
    monkeypatch.setattr(native_step, "supports", lambda tables: False)


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lab]]:
    """`labs(script, checkpoint={...}, **config)`: an engine on that script; the same arguments give the same engine."""
    made: dict[str, Lab] = {}

    def make(script: Script, checkpoint: Mapping = {}, **config) -> Lab:
        key = repr((sorted(script.items(), key=str), sorted(checkpoint.items()), sorted(config.items())))
        if key not in made:
            directory = tmp_path_factory.mktemp("scripted")
            vocabulary = write_scripted_checkpoint(directory, script, **checkpoint)
            config = {
                "device": "cpu", "dtype": "float32", "max_num_seqs": 16, "max_model_len": 256, "kv_cache_tokens": 4096,
                **config,
            }  # fmt: skip
            made[key] = Lab(Engine(str(directory), **config), vocabulary, config["max_model_len"], directory)
        return made[key]

    yield make
    for lab in made.values():
        lab.engine.check()
        lab.engine.close()
