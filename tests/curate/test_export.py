"""A finished run as a data set: what is in the file and on its card, what is left out, and who can read it."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from rich.console import Console

from curate.config import load_config
from curate.export import main
from curate.run import Arguments, run
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
