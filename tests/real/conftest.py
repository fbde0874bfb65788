"""The real model, fetched once into the user's cache (`models.smollm2`), and one engine for most tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine
from engine.errors import InputError
from models import smollm2


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct. Only S1_OFFLINE=1 skips what needs it."""
    try:
        return smollm2.fetch()
    except InputError as error:
        if os.environ.get("S1_OFFLINE") == "1":
            pytest.skip(f"S1_OFFLINE is 1 and the model is not in the cache: {error}")
        pytest.fail(f"{error}; or set S1_OFFLINE=1 to leave the tests of the real model out", pytrace=False)


@pytest.fixture(scope="session")
def engine(model: Path) -> Iterator[Engine]:
    """In float32, which is what transformers is compared in."""
    with Engine(model, device="cpu", dtype="float32", max_num_seqs=24, kv_cache_tokens=24_576) as opened:
        yield opened
