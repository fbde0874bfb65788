"""A finished run as a data set: what is in the file and on its card, what is left out, and who can read it."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from rich.console import Console

from curate.config import Asked, Attempts, load_config
from curate.data_card import _asked
from curate.export import exported, main, read_run
from curate.run import Arguments, run
from curate.sources import GPQA
from engine.errors import InputError
from engine.hub_card import check_card
from engine.text.tokenizer import Tokenizer
from tests.hub_server import TOKEN, running_hub, use_hub
from train.config import Data
from train.data import read_dataset

NANO = Path(__file__).resolve().parents[2] / "models" / "s1-nano"
S1K = ["question", "solution", "cot_type", "source_type", "metadata", "cot", "thinking_trajectories", "attempt"]
CHOICE = {"Correct Answer": "He", "Incorrect Answer 1": "Ne", "Incorrect Answer 2": "Ar", "Incorrect Answer 3": "Xe"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of seven questions of three sources, of which GPQA is private, to the training file."""
    folder = tmp_path_factory.mktemp("export")
    gpqa = [CHOICE | {"Question": f"Secret gas {i}?", "Record ID": f"r{i}"} for i in range(2)]
    pl.DataFrame(gpqa).write_parquet(folder / "gpqa.parquet")
    for name, numbers in (("a", (3, 4, 5)), ("b", (6, 7))):
        lines = [
            {"question": f"Ann has {n} apples and eats 2. How many are left?", "answer": f"#### {n - 2}"}
            for n in numbers
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "test.jsonl").write_text('{"question": "What is the mass of the moon?"}\n')
    model = {"model": f"engine:{NANO}", "max_num_seqs": 8, "max_model_len": 256, "name": "teacher"}
    asked = {"model": model, "sampling": {"max_tokens": 40, "thinking_token_budget": 24}}
    tree = {
        "run": str(folder / "run"),
        "seed": 7,
        "collect": {
            "sources": [
                {"adapter": "GPQA", "path": str(folder / "gpqa.parquet")},
                {"adapter": "GSM8K", "path": str(folder / "a.jsonl")},
                {"adapter": "GSM8K", "path": str(folder / "b.jsonl"), "name": "Mine | own", "licence": "House Rules 1"},
            ]
        },
        "decontaminate": {"against": [{"name": "moon", "path": str(folder / "test.jsonl")}]},
        "trace": asked,
        "quality": {"finished": False},
        "attempt": {"models": [asked]},
        "select": {"mode": "full", "pool": "quality"},
        "format": {"tokenizer": str(NANO)},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    run(load_config(config), Arguments(Path()), Console(quiet=True))
    return config


def write(finished, out, *words):
    return main([str(finished), "--out", str(out), *words])


def test_the_file_has_s1ks_columns_and_no_private_question(finished, tmp_path, capfd):
    assert write(finished, tmp_path / "set", "--name", "Apples") == 0
    said = capfd.readouterr().err
    assert "2 questions of GPQA are left out: the source is private" in said and "wrote 5 questions" in said
    (file,) = (tmp_path / "set").rglob("*.parquet")
    assert file.relative_to(tmp_path / "set").as_posix() == "data/train-00000-of-00001.parquet"
    table = pl.read_parquet(file)
    assert table.columns == ["id", *S1K, "source", "domain", "licence"]
    assert sorted(table["source"]) == ["GSM8K"] * 3 + ["Mine | own"] * 2
    assert set(table["licence"]) == {"MIT", "House Rules 1"} and table["source_type"][0] == "openai/gsm8k"
    assert (
        table.schema["thinking_trajectories"] == pl.List(pl.String)
        and table["thinking_trajectories"].list.len().max() == 1
    )
    assert all(b"Secret" not in path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file())
    # The trainer reads it as it reads the run's own training file.
    tokenizer = Tokenizer.load(NANO)
    ours = read_dataset((str(file),), Data(train=("x",)), tokenizer, 10**6)
    theirs = finished.parent / "run" / "format" / "train.jsonl"
    both = read_dataset((str(theirs),), Data(train=("x",)), tokenizer, 10**6)
    at = {name: i for i, name in enumerate(both.ids)}
    for i, name in enumerate(ours.ids):
        mine, there = (slice(*d.offsets[j : j + 2]) for d, j in ((ours, i), (both, at[name])))
        assert (ours.tokens[mine] == both.tokens[there]).all() and (ours.trained[mine] == both.trained[there]).all()
    assert len(ours) == 5 and len(both) == 7


def test_the_card_says_how_it_was_made(finished, tmp_path):
    assert write(finished, tmp_path, "--name", "Apples") == 0
    check_card(tmp_path, "dataset")
    text = (tmp_path / "README.md").read_text()
    head = DatasetCard(text).data.to_dict()
    assert head["license"] == ["other", "mit"] and head["license_name"] == "house-rules-1"
    assert head["pretty_name"] == "Apples" and head["size_categories"] == ["n<1K"] and "language" not in head
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-00000-of-00001.parquet"}]
    lines = text.splitlines()
    assert "| Mine \\| own | 2 | House Rules 1 |" in text and "| GSM8K | 3 | MIT |" in text
    assert "2 selected questions of GPQA are left out: its authors ask that their text be published nowhere." in lines
    assert "| collect | 7 | 7 |" in lines and "| format | 7 | 7 |" in lines
    assert '| trace | s1-nano in process | {"max_tokens": 40, "thinking_token_budget": 24} | 7 | 0 |' in lines
    assert "- Decontaminated by rule scored against moon: 1 evaluation questions." in lines
    assert "- Selection: mode full, 1,000 asked for, seed 7." in lines
    assert str(finished.parent) not in text, "whose machine it was is nobody's business"


def test_a_run_that_is_not_finished_is_named(finished, tmp_path, capfd):
    folder = finished.parent / "run"
    select = folder / "select" / "manifest.json"
    was = select.read_text()
    for spoil, message in (
        (lambda: select.unlink(), "stage select has not run; finish it first: python -m curate.run"),
        (lambda: select.write_text("{}"), "a manifest is damaged; finish it first"),
        (
            lambda: select.write_text(was.replace(json.loads(was)["outputs"]["selection.parquet"]["sha256"], "0" * 64)),
            "stage select is newer than format, which reads it; finish it first",
        ),
    ):
        try:
            spoil()
            assert write(finished, tmp_path / "set") == 2
        finally:
            select.write_text(was)
        said = capfd.readouterr().err
        assert message in said and said.count("\n") == 1 and not (tmp_path / "set").exists()


def test_a_run_that_was_made_with_another_configuration_is_refused(finished, tmp_path, capfd):
    """Else an edited configuration would say that a private source is none."""
    tree = yaml.safe_load(finished.read_text())
    kept = finished.parent / "run" / "config.yaml"
    was = kept.read_text()
    open_source = {"adapter": "questions", "name": "GPQA", "path": tree["collect"]["sources"][0]["path"]}
    open_source |= {"question": "Question", "answer": "Correct Answer"}
    sources = [open_source, *tree["collect"]["sources"][1:]]
    other = tmp_path / "other.yaml"
    for change, stage in (({"collect": {"sources": sources}}, "collect"), ({"seed": 8}, "select")):
        other.write_text(yaml.safe_dump(tree | change))
        assert main([str(other), "--out", str(tmp_path / "set")]) == 2
        said = capfd.readouterr().err
        assert f"stage {stage} was made with another configuration; finish it first: python -m" in said
        try:
            kept.write_text(other.read_text())
            assert main([str(kept.parent), "--out", str(tmp_path / "set")]) == 2
        finally:
            kept.write_text(was)
    # One that fails at its first stage leaves the configuration of what is there.
    sources[1] |= {"rename": {"question": "gone"}}
    other.write_text(yaml.safe_dump(tree | {"collect": {"sources": sources}}))
    with pytest.raises(InputError, match="none of its 3 rows gives a question"):
        run(load_config(other), Arguments(other), Console(quiet=True))
    other.write_text(yaml.safe_dump(tree | {"seed": 8}))
    run(load_config(other), Arguments(other, ("report",)), Console(quiet=True))
    assert kept.read_text() == was and not (tmp_path / "set").exists()


def test_what_is_private_is_what_was_when_it_was_collected(finished, monkeypatch):
    monkeypatch.setattr(GPQA, "info", replace(GPQA.info, private=False))
    context, _ = read_run(finished)
    found = exported(context)
    assert found.private == {"GPQA": 2} and "GPQA" not in set(found.rows["source"])
    evidence = [context.table(name, "decisions") for name in ("collect", "decontaminate", "quality")]
    assert all("Secret" not in str(table.rows()) for table in evidence)


def test_no_folder_that_holds_other_files_is_written_to_or_uploaded(finished, tmp_path, monkeypatch, capfd):
    folder = finished.parent / "run"
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "deep" / "key.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out, message in (
        (folder, "is the folder of the run; give a folder for the data set alone"),
        (folder / "collect", ", which is not of a data set; give an empty folder"),
        (folder.parent, ", which is not of a data set; give an empty folder"),
        (tmp_path / "work", "holds deep/key.txt, which is not of a data set; give an empty folder"),
        (tmp_path / "file", "is no folder; give another"),
    ):
        assert write(finished, out) == 2
        said = capfd.readouterr().err
        assert message in said and said.count("\n") == 1
    assert not (folder / "README.md").exists() and (tmp_path / "file").read_text() == "mine"
    assert write(finished, tmp_path / "set") == 0 and write(finished, tmp_path / "set") == 0
    with running_hub() as hub:  # what comes there between the look and the upload stays here
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        monkeypatch.setattr("curate.export.write_card", lambda out, text: (out / "key.txt").write_text("mine"))
        assert write(finished, tmp_path / "set", "--push-to-hub", "me/apples") == 0
        kept = hub.repositories["datasets", "me/apples"].files
        assert sorted(kept) == ["README.md", "data/train-00000-of-00001.parquet"]


def test_calls_are_counted_of_models_without_a_name(finished):
    config = load_config(finished)
    model = {"model": f"engine:{NANO}"}
    asked = [Asked(model=model), Asked(model={"model": "m", "name": "", "base_url": "http://x/v1"})]
    config = msgspec.structs.replace(config, trace=asked[0], attempt=Attempts(models=tuple(asked)))
    told = {"s1-nano": {"calls": 7, "errors": 1}, "m": {"calls": 8, "errors": 2}}
    counts = {"trace": {"models": {"s1-nano": told["s1-nano"]}}, "attempt": {"models": told}}
    assert [row[3:] for row in _asked(config, counts)] == [(7, 1), (7, 1), (8, 2)]


def test_the_folder_alone_is_enough_where_it_holds_its_configuration(finished, tmp_path, capfd):
    folder = finished.parent / "run"
    kept = folder / "config.yaml"
    assert kept.is_file() or main([str(folder)]) == 2
    kept.write_text(finished.read_text())
    assert main([str(folder), "--out", str(tmp_path / "set")]) == 0
    assert "wrote 5 questions" in capfd.readouterr().err


def test_what_is_uploaded_is_private_and_comes_back_by_its_name(finished, tmp_path, monkeypatch, capfd):
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        assert write(finished, tmp_path / "set", "--push-to-hub", "me/apples") == 0
        repository = hub.repositories["datasets", "me/apples"]
        assert repository.private and sorted(repository.files) == ["README.md", "data/train-00000-of-00001.parquet"]
        assert f"uploaded to {hub.url}/datasets/me/apples" in capfd.readouterr().err
        again = read_dataset(("hub:me/apples",), Data(train=("x",)), Tokenizer.load(NANO), 10**6)
        assert len(again) == 5 and again.files[0].name == "hub:me/apples/train-00000-of-00001.parquet"
        assert write(finished, tmp_path / "set", "--push-to-hub", "me/open", "--public") == 0
        assert not hub.repositories["datasets", "me/open"].private


def test_nobody_at_the_hub_leaves_the_folder_and_says_what_to_run(finished, tmp_path, monkeypatch, capfd):
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    assert write(finished, tmp_path / "set", "--push-to-hub", "me/apples") == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "is not uploaded to me/apples (" in said and "Connection refused" in said
    assert f"run `python -m curate.export {finished} --out {tmp_path}/set --push-to-hub me/apples` again" in said
    assert (tmp_path / "set" / "README.md").is_file()
    for token, name, message in ((None, "me/apples", "nobody is logged in"), (TOKEN, "apples", "give OWNER/NAME")):
        use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "home", token)
        assert write(finished, tmp_path / "other", "--push-to-hub", name) == 2
        assert message in capfd.readouterr().err and not (tmp_path / "other").exists()
