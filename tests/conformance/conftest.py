"""Engines on scripted checkpoints, shared by every test that asks for the same script and configuration."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from engine import Engine
from kernels.native import step as native_step
from tests.conformance.lab import Lab
from tests.conformance.scripted import write_scripted_checkpoint

settings.register_profile(
    "conformance", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("conformance")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

Script = Mapping[str | bytes, Sequence[str | bytes]]
Labs = Callable[..., Lab]


def make_lab(directory: Path, script: Script, checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> Lab:
    """Write the scripted checkpoint and start an engine on it. `S1_TEST_ENGINE` (JSON) changes its configuration
    where a test leaves it open: how the suite runs through other paths of the engine."""
    vocabulary = write_scripted_checkpoint(directory, script, **checkpoint)
    defaults = {"device": "cpu", "dtype": "float32", "max_num_seqs": 16, "max_model_len": 256, "kv_cache_tokens": 4096}
    path = json.loads(os.environ.get("S1_TEST_ENGINE", "{}"))
    engine = Engine(str(directory), **{**defaults, **path, **config})
    return Lab(engine, vocabulary, config.get("max_model_len", 256), directory)


@pytest.fixture
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch definitions of sampler and thinking machine in place of their native twins, in every thread."""
    monkeypatch.setattr(native_step, "supports", lambda tables: False)


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    """`labs(script, checkpoint={...}, **config)`: an engine on that script; the same arguments give the same engine."""
    made: dict[str, Lab] = {}

    def get(script: Script, checkpoint: Mapping[str, Any] = MappingProxyType({}), **config: Any) -> Lab:
        key = repr((sorted(script.items(), key=str), sorted(checkpoint.items()), sorted(config.items())))
        if key not in made:
            made[key] = make_lab(tmp_path_factory.mktemp("scripted"), script, checkpoint, config)
        return made[key]

    yield get
    for lab in made.values():
        lab.engine.check()
        lab.engine.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random checkpoint that loves delimiters, with transformers' model of it as the judge."""
    from tests.conformance.forced_world import make_world  # imports transformers, which takes seconds

    return make_world(tmp_path_factory.mktemp("forced"))


@pytest.fixture
def new_lab(tmp_path: Path) -> Iterator[Labs]:
    """As `labs`, for one test alone: its engine is closed when the test ends (a process has one group of ranks)."""
    made: list[Lab] = []

    def get(script: Script, checkpoint: Mapping[str, Any] = MappingProxyType({}), **config: Any) -> Lab:
        made.append(make_lab(tmp_path / str(len(made)), script, checkpoint, config))
        return made[-1]

    yield get
    for lab in made:
        lab.engine.check()
        lab.engine.close()
