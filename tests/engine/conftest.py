"""Tokenizers that several files of this folder read with: Qwen2.5's own, transformers on it, and small ones."""

import json
import os
from pathlib import Path

import pytest

from engine.text.tokenizer import Tokenizer
from tests.conformance.scripted import make_tokenizer, write_tokenizer

QWEN = Path(os.environ.get("S1_DATA", Path(__file__).parents[3] / "shared/data")) / "qwen2.5_tokenizer"
needs_qwen = pytest.mark.skipif(not QWEN.is_dir(), reason=f"Qwen2.5's tokenizer is not at {QWEN} (set S1_DATA)")


@pytest.fixture(scope="session")
def qwen() -> Tokenizer:
    return Tokenizer.load(QWEN)


@pytest.fixture(scope="session")
def oracle():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(QWEN)


@pytest.fixture
def small(tmp_path):
    """Writes a small tokenizer with the template given and loads it."""

    def load(template: str | None, **config) -> Tokenizer:
        write_tokenizer(tmp_path, make_tokenizer(["<think>", "</think>"]), template or "")
        path = tmp_path / "tokenizer_config.json"
        written = json.loads(path.read_text())
        if template is None:
            written.pop("chat_template")
        path.write_text(json.dumps({**written, **config}))
        return Tokenizer.load(tmp_path)

    return load
