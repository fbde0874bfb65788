"""What the key of our engine's responses holds: all that decides them, and nothing that does not."""

import shutil
from dataclasses import fields, replace

import pytest

from bench.evaluation import grid, run
from curate.models.local import NO_RESULT, engine_config, identity
from engine import EngineConfig
from engine.model.fingerprint import fingerprint
from tests.checkpoints import write_random_checkpoint

NANO = "models/s1-nano"


@pytest.mark.parametrize("name", [field.name for field in fields(EngineConfig)])
def test_every_setting_is_in_the_key_unless_it_is_known_to_change_nothing(name):
    """Also one that there is not yet: only `NO_RESULT` is left out."""
    one, other = engine_config(NANO, {}), replace(engine_config(NANO, {}))
    if name != "model":
        object.__setattr__(other, name, "another")
    assert (identity(one) == identity(other)) == (name in NO_RESULT)
    assert {"quantization", "kv_cache_dtype", "max_model_len"}.isdisjoint(NO_RESULT)
    assert set(NO_RESULT) <= {field.name for field in fields(EngineConfig)}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_changed_file_is_another_model_here_and_in_an_evaluation(tmp_path, name):
    write_random_checkpoint(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    data = bytearray((tmp_path / "b" / name).read_bytes())
    data[-2] ^= 1
    (tmp_path / "b" / name).write_bytes(data)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    keys = [identity(engine_config(str(tmp_path / model), {})) for model in "ab"]
    tree = {"tasks": [{"name": "s1_nano", "count": 1}], "methods": [{"method": "auto"}]}
    runs = [run.identity(grid.from_values({**tree, "model": str(tmp_path / model)}), []) for model in "ab"]
    assert keys[0] != keys[1] and runs[0]["model"] != runs[1]["model"]


def test_a_chat_template_belongs_to_the_model(tmp_path):
    folder = write_random_checkpoint(tmp_path)
    before = fingerprint(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert fingerprint(folder) != before
    (folder / "README.md").write_text("not read")
    assert fingerprint(folder) != before


def test_a_large_file_is_hashed_in_all_its_parts(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.truncate(256 << 20)
    seen = {fingerprint(tmp_path)}
    for place in (0, 128 << 20, 252 << 20):
        with file.open("r+b") as out:
            out.seek(place)
            out.write(b"x")
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
