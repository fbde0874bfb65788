"""The command that rebuilds the two small models, at a size that takes seconds."""

import json
import sys

import polars as pl
import pytest

from curate import small_models
from curate.models.asking import Sampling
from curate.models.opened import open_model
from curate.models.store import Store
from curate.small_models import SIZES, Size, build, main
from curate.stages.attempts import attempt


def test_a_tiny_build_answers(tmp_path):
    size = Size("tiny", (32, 1, 2, 64), problems=16, seed=7)
    report = build(size, tmp_path, "compute.compile=false")
    assert report["steps"] == 2 and json.loads((tmp_path / "tiny" / "build.json").read_text()) == report
    values = {"model": f"engine:{tmp_path / 'tiny'}", "device": "cpu", "dtype": "float32", "max_model_len": 256}
    with Store(tmp_path / "store.sqlite") as store, open_model(values, store) as model:
        questions = pl.DataFrame({"qid": ["a", "b"], "question": ["What is 3?", "What is 4?"]})
        traces = attempt(questions, model, Sampling(max_tokens=24))
    assert traces["error"].null_count() == 2 and traces["completion_tokens"].min() > 0


def test_the_two_differ_and_unknown_names_are_refused(tmp_path, monkeypatch):
    first, second = SIZES
    assert first.shape != second.shape and first.seed != second.seed
    monkeypatch.setattr(sys, "argv", ["curate.small_models", "--out", str(tmp_path), "--only", "small-z"])
    with pytest.raises(SystemExit, match="no model 'small-z'; known: small-a, small-b"):
        main()
    assert not list(tmp_path.iterdir())


def test_flags_that_cannot_be_read_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["small_models", "--out"])
    with pytest.raises(SystemExit) as ended:
        small_models.main()
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: --out needs a value\n")
