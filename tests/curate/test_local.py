"""What the key of our engine's responses holds: all that decides them, and nothing that does not."""

import shutil
from dataclasses import fields, replace
from typing import cast

import pytest

from bench.evaluation import grid, run
from curate.config import Asked, Attempts, Collect, Config, Domain
from curate.models.asking import Ask, Sampling
from curate.models.local import engine_config, identity
from curate.models.opened import checkpoint_files, open_model
from curate.models.store import Store
from curate.sources.probability import Probability
from curate.stages.pipeline import stages
from curate.stages.stage import Stage
from engine import EngineConfig
from engine.errors import InputError
from engine.model.fingerprint import fingerprint
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import resolve_format
from tests.checkpoints import write_random_checkpoint

NANO = "models/s1-nano"
INDIFFERENT = (
    *("model", "adapter", "max_num_seqs", "max_num_batched_tokens", "max_waiting", "max_samples", "max_logprobs"),
    *("enable_prefix_caching", "overlap", "capture_at_start"),
)


@pytest.mark.parametrize("name", [field.name for field in fields(EngineConfig)])
def test_every_setting_is_in_the_key_unless_it_is_known_to_change_nothing(name):
    """Also one that there is not yet: what is left out is named."""
    one, other = engine_config(NANO, {}), replace(engine_config(NANO, {}))
    if name == "adapter":  # its files are part of what the model is
        with pytest.raises(InputError, match=r"another/adapter_config\.json"):
            identity(replace(one, adapter="another"))
    elif name != "model":
        object.__setattr__(other, name, "another")
    assert (identity(one) == identity(other)) == (name in INDIFFERENT)


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
    assert runs[0]["engine"] == EngineConfig().decisive, "what the grid does not say is in it, too"


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


def test_stages_depend_on_all_files_of_the_models_they_ask(tmp_path):
    """The one that labels domains, too, an adapter, and the chat template wherever it stands."""
    folder, adapter = write_random_checkpoint(tmp_path / "model"), tmp_path / "adapter"
    adapter.mkdir()
    asked = Asked(model={"model": f"engine:{folder}", "adapter": str(adapter)})
    assert checkpoint_files(asked.model) == [folder, adapter]
    stage = Stage("trace", 1, (), lambda c: {}, lambda c: checkpoint_files(asked.model))
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    keys = {stage.key(cast(Config, None))[0]}
    for path in (folder / "chat_template.jinja", folder / "model.safetensors", adapter / "adapter_model.safetensors"):
        path.write_text("{{ messages[0].content }}")
        keys.add(stage.key(cast(Config, None))[0])
    assert len(keys) == 4
    endpoint = Asked(model={"model": "m", "base_url": "http://x"})
    config = Config(
        run=str(tmp_path),
        collect=Collect(sources=(Probability(rows=1),)),
        trace=endpoint,
        attempt=Attempts(models=(endpoint,)),
        domain=Domain(model=asked.model),
    )
    (domain,) = [stage for stage in stages(config) if stage.name == "domain"]
    assert domain.files(config) == [folder, adapter]
    (trace,) = [stage for stage in stages(config) if stage.name == "trace"]
    assert trace.files(config) == []


@pytest.mark.parametrize(
    ("of_model", "of_call", "opened"),
    [({}, {}, 0), ({"thinking_format": "s1"}, {}, 1), ({}, {"thinking_format": "s1"}, 1)],
)
def test_a_model_that_is_not_s1_gets_its_opener_only_where_it_is_asked_for(of_model, of_call, opened, tmp_path, capfd):
    folder = write_random_checkpoint(tmp_path / "some-instruct")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}model: "
    )
    tokenizer = Tokenizer.load(folder)
    ask = Ask("q", ({"role": "user", "content": "2 + 2?"},), Sampling(max_tokens=32, **of_call), "p-1")
    with (
        Store(tmp_path / "responses.sqlite") as store,
        open_model({"model": f"engine:{folder}", "device": "cpu", "dtype": "float32", **of_model}, store) as model,
    ):
        (answer,) = model.ask([ask])
    bare = len(tokenizer.render([dict(message) for message in ask.messages]))
    opener = len(resolve_format("s1", tokenizer).opener)
    assert answer.error is None and opener > 0
    assert answer.prompt_tokens == bare + opener * opened
    assert ("note: thinking_format auto is none: " in capfd.readouterr().err) == (not of_model)
