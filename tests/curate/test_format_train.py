"""The file that `format` writes is what the trainer reads, and both count the same tokens."""

import json
from pathlib import Path

import polars as pl
import pytest

from curate.config import Format
from curate.stages.formatting import formatted
from curate.stages.pipeline import tokenizer_files
from engine.text.tokenizer import Tokenizer
from tests.checkpoints import QWEN_TOKENIZER, write_tokenizer
from tests.train.conftest import no_group_is_left  # noqa: F401 (a fixture: the trainer runs in this process)
from tests.train.support import trainer
from train.config import Data
from train.data import read_dataset

ROOT = Path(__file__).resolve().parents[2]
ROWS = pl.DataFrame(
    [
        ("a/1", "q1", "MATH", "11", "What is 2+2?", "4", "Two and two.\nThat is four.", "The sum is 4."),
        ("a/2", "q2", "AIME", "05", "Wie viele Ä-Umlaute?\nZähle:\u2028äöü 😀", "1", "  ä, ö, ü: eins.  ", "Answer: 1"),
        ("a/3", "q3", "GPQA", "81", "Pick (A) x (B) y", "B", "Wait, B. " * 40, "**Final Answer:** B\n"),
    ],
    schema=["row_id", "qid", "source", "domain", "question", "answer", "thinking", "attempt"],
    orient="row",
)


@pytest.fixture(params=["small", "qwen2.5"])
def tokenizer(request, tmp_path):
    if request.param == "qwen2.5":
        if not QWEN_TOKENIZER.is_dir():
            pytest.skip("S1_DATA has no qwen2.5_tokenizer")
        return QWEN_TOKENIZER
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize("style", ["s1", "messages", "text"])
def test_the_trainer_reads_it_and_counts_the_same(style, tokenizer, tmp_path):
    decisions, samples, lines = formatted(ROWS, Format(tokenizer=str(tokenizer), style=style))
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines)
    data = read_dataset((str(path),), Data(train=(str(path),)), Tokenizer.load(tokenizer), 10**6)
    assert list(data.ids) == ["q1", "q2", "q3"] and decisions["keep"].all()
    assert data.lengths.tolist() == samples["tokens"].to_list()
    assert data.targets.tolist() == samples["trained"].to_list()


def test_the_text_is_s1s(tokenizer):
    _, _, lines = formatted(ROWS, Format(tokenizer=str(tokenizer), style="text"))
    texts = [json.loads(line)["text"] for line in lines.decode().splitlines()]
    assert texts[0].endswith(
        "<|im_start|>assistant\n<|im_start|>think\nTwo and two.\nThat is four.\n<|im_start|>answer\n"
        "Answer: The sum is 4.<|im_end|>\n"
    )
    assert "<|im_start|>think\nä, ö, ü: eins.\n<|im_start|>answer\nAnswer: 1<|im_end|>" in texts[1]
    assert texts[2].endswith("<|im_start|>answer\n**Final Answer:** B<|im_end|>\n")


def test_a_text_that_cannot_say_what_the_question_spells_is_left_out(tokenizer, tmp_path):
    """As columns or messages it is plain text to the trainer, and counted so; rendered it would be a special token."""
    rows = ROWS.with_columns(pl.col("question") + "<|im_end|>")
    decisions, _, lines = formatted(rows, Format(tokenizer=str(tokenizer), style="text"))
    assert decisions["rule"].to_list() == ["spells_special"] * 3 and not lines
    _, samples, lines = formatted(rows, Format(tokenizer=str(tokenizer)))
    (tmp_path / "train.jsonl").write_bytes(lines)
    data = read_dataset((str(tmp_path / "train.jsonl"),), Data(train=("x",)), Tokenizer.load(tokenizer), 10**6)
    assert data.lengths.tolist() == samples["tokens"].to_list()


def test_samples_that_are_too_long_are_left_out_and_say_so(tokenizer):
    decisions, samples, lines = formatted(ROWS, Format(tokenizer=str(tokenizer), max_tokens=100))
    assert decisions["rule"].to_list() == ["kept", "kept", "too_long"]
    assert decisions["evidence"][2] == f"{samples['tokens'][2]} tokens, more than 100"
    assert len(lines.decode().splitlines()) == 2 and samples.height == 3


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        formatted(ROWS, Format(tokenizer=str(tmp_path)))


def test_a_training_step_runs_on_it_and_counts_the_same(tmp_path):
    nano = ROOT / "models" / "s1-nano"
    _, samples, lines = formatted(ROWS, Format(tokenizer=str(nano)))
    (tmp_path / "train.jsonl").write_bytes(lines)
    recipe = ROOT / "train" / "recipes" / "s1_nano_sft.yaml"
    settings = [
        f"run={tmp_path / 'run'}",
        f"model.path={nano}",
        f"data.train=[{tmp_path / 'train.jsonl'}]",
        "data.batch_size=3",
        "epochs=1",
        "metrics.every=1",
        "metrics.progress=false",
    ]
    trainer(recipe, *settings).fit()
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (step,) = [line for line in steps if "loss" in line]
    assert step["targets"] == samples["trained"].sum() and step["tokens"] == samples["tokens"].sum()


def test_the_embedded_model_s_tokenizer_has_its_name(tmp_path, monkeypatch):
    """Wherever one works, as everywhere else that a model is named."""
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in tokenizer_files("s1-nano")] == ["tokenizer.json", "tokenizer_config.json"]
    _, _, lines = formatted(ROWS[:0], Format(tokenizer="s1-nano"))
    assert lines == b""
