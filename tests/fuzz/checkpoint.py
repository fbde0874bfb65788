"""A tiny checkpoint of which one file at a time is another."""

import atexit
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from engine import Engine, SamplingParams
from tests.checkpoints import write_random_checkpoint


@cache
def scratch() -> Path:
    """A folder of this process, which goes with it."""
    folder = mkdtemp(prefix="fuzz-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def folder(shards: int = 1) -> Path:
    """A random Qwen2 of two layers with a tokenizer of a few hundred tokens."""
    shape = {"hidden": 16, "intermediate": 24, "heads": 2, "kv_heads": 1, "max_positions": 512}
    return write_random_checkpoint(scratch() / f"model-{shards}", shards=shards, **shape)


def read(name: str, shards: int = 1) -> Any:
    """What a JSON file of it holds."""
    return json.loads((folder(shards) / name).read_text())


@contextmanager
def altered(name: str, data: bytes, shards: int = 1) -> Iterator[Path]:
    """The folder while `name` holds `data`."""
    path = folder(shards) / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    try:
        yield folder(shards)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@cache
def engine() -> Engine:
    """One that runs, for whatever needs it good."""
    return open_engine(folder())


def open_engine(directory: Path) -> Engine:
    """As `python -m engine.generate --device cpu` would, with few pages."""
    return Engine(directory, device="cpu", max_num_seqs=2, kv_cache_tokens=512, generation_config="auto")


def open_and_run(directory: Path) -> None:
    """Load it and generate two tokens."""
    with open_engine(directory) as opened:
        opened.generate(["hi"], SamplingParams(max_tokens=2, thinking_format="none"))


def forget() -> None:
    """Begin anew, in a folder of one's own: after a fork."""
    scratch.cache_clear()
    folder.cache_clear()
