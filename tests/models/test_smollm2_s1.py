"""The recipe of models/smollm2_s1: what its traces say, and that data, training and evaluation fit together."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.evaluation import files, grid, tasks
from curate.grading import AnswerKind, Grader, Item
from engine import InputError
from engine.text.tokenizer import Tokenizer
from models.smollm2_s1.traces import Arguments, Step, build, main, steps, trace
from train.config import load_config
from train.data import read_dataset

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "models" / "smollm2_s1"
NANO = ROOT / "models" / "s1-nano"
GSM8K = files.data_folder() / "gsm8k"
needs_data = pytest.mark.skipif(not GSM8K.is_dir(), reason="the question files are not there; set S1_DATA")

SOLUTION = "He has 48/2 = 24 left.\nThat is 24+5 = 29, or 29/3 = 9.67 each."
ANNOTATED = (
    "He has 48/2 = <<48/2=24>>24 left.\nThat is 24+5 = <<24+5=30>>29, or 29/3 = <<29/3=9.67>>9.67 each.\n#### 29"
)


@pytest.mark.parametrize(
    ("left", "result", "right"),
    [
        ("48/2", "24", True),
        ("48/2", "25", False),
        ("100-50-30-15", "5", True),
        ("20/100*25", "5", True),
        ("-(3-5)*.5", "1", True),
        ("1/3", "0.33", True),
        ("2/3", "0.66", False),
        ("2/3", "1", False),
        ("0.1+0.2", "0.3", True),
        ("1/0", "0", False),
        ("2**9", "512", False),
        ("(2", "2", False),
        ("", "0", False),
        ("05", "5", False),
        ("1", "1.2.3", False),
    ],
)
def test_a_calculation_is_right_to_the_digits_that_are_given(left, result, right):
    assert Step(left, result).right is right


def test_each_calculation_counts_once():
    assert steps("<<1+1=2>>2 <<2*3=6>>6 <<1+1=2>>2 <<x=3>> <<>> <<4=") == [Step("1+1", "2"), Step("2*3", "6")]


def test_waits_check_the_last_calculations_that_are_right_and_nothing_else():
    found = {trace(SOLUTION, ANNOTATED, 0, str(i)) for i in range(50)}
    last, first = "Wait, let me check: 29/3 = 9.67. Yes.", "Wait, let me check: 48/2 = 24. Yes."
    lines = [SOLUTION, f"{SOLUTION}\n{last}", f"{SOLUTION}\n{last}\n{first}"]
    assert found == set(zip(lines, (0, 1, 2), strict=True))


def test_half_of_the_traces_check_something():
    waits = [trace(SOLUTION, ANNOTATED, 0, str(i))[1] for i in range(500)]
    assert [waits.count(n) / 500 for n in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.06)


def write_questions(folder: Path) -> Arguments:
    """A training file of 24 questions and, behind them one of the test set."""
    names = ["Ann", "Bob", "Cyd", "Dan", "Eva", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo"]
    things = ["apples in her garden", "kites that she sold"]

    def row(name: str, thing: str, n: int) -> dict[str, str]:
        return {
            "question": f"{name} counts {n} {thing}, twice. How many is that for {name}?",
            "answer": f"{name} has {n}*2 = <<{n}*2={2 * n}>>{2 * n} of them.\n#### {2 * n}",
        }

    rows = [row(name, thing, 7 * i + len(thing)) for i, name in enumerate(names) for thing in things]
    copied = {"question": "A train of 12 waggons takes 3 tons in each; what does the whole train take, in tons?"}
    copied["answer"] = "It takes 12*3 = <<12*3=36>>36 tons.\n#### 36"
    for name, written in (("train", [*rows, copied]), ("test", [copied])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return Arguments(NANO, folder / "out", folder / "train.jsonl", folder / "test.jsonl", None, 4, 1000)


def test_the_trainer_reads_s1s_text_with_the_models_own_template(tmp_path):
    arguments = write_questions(tmp_path)
    counts = build(arguments)
    assert counts["near_test_questions"] == 1 and counts["too_long"] == 0
    assert (counts["train"], counts["heldout"]) == (20, 4)
    tokenizer, config = Tokenizer.load(NANO), load_config(RECIPE / "train.yaml").data
    written = [arguments.out / f"{name}.jsonl" for name in ("train", "heldout")]
    seen = set()
    with Grader() as grader:
        for file in written:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            data = read_dataset((str(file),), config, tokenizer, 768)
            for i, row in enumerate(rows):
                ids = data.tokens[data.offsets[i] : data.offsets[i + 1]].tolist()
                mask = data.trained[data.offsets[i] : data.offsets[i + 1]]
                said = tokenizer.decode([t for t, trained in zip(ids, mask, strict=True) if trained])
                pattern = r"<\|im_start\|>think\n(.*)\n<\|im_start\|>answer\n(Answer: (\d+))<\|im_end\|>\n"
                found = re.fullmatch(pattern, said, re.DOTALL)
                assert found and found[1] == row["thinking"] and "<<" not in said
                assert row["question"] in tokenizer.decode(ids)
                grade = grader.grade([Item(found[2], row["reference"], AnswerKind.NUMBER)])
                assert grade[0].correct
                seen.add(row["id"])
    assert len(seen) == 24 and not any("waggons" in file.read_text() for file in written)


def test_rows_that_hold_no_question_are_counted_and_left_out(tmp_path):
    arguments = write_questions(tmp_path)
    assert arguments.train is not None
    bad = '\n{"question": "How many?", "answer": 5}\n{"question": "How many?"}\n[]\n{\n'
    arguments.train.write_text(bad + arguments.train.read_text())
    counts = build(arguments)
    assert (counts["rows"], counts["questions"], counts["calculations"]) == (29, 25, 25)


def test_fewer_samples_are_the_first_of_more_and_the_same_every_time(tmp_path):
    arguments = write_questions(tmp_path)
    build(arguments)
    every = (arguments.out / "train.jsonl").read_bytes()
    build(replace(arguments, out=tmp_path / "few", count=5))
    assert (tmp_path / "few" / "train.jsonl").read_bytes() == b"".join(every.splitlines(keepends=True)[:5])
    for wrong, said in (
        ({"count": 1000}, "4 and --count 1,000 of 24"),
        ({"count": 0}, "4 and --count 0"),
        ({"heldout": -1}, "-1"),
    ):
        with pytest.raises(InputError, match=f"--heldout {said}"):
            build(replace(arguments, **wrong))


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert main(["--tokenizer", str(NANO), "--train", str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]) == 2
    assert re.search(r"^.*none\.jsonl.*$", capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_recipe_and_grid_load():
    config, wanted = load_config(RECIPE / "train.yaml"), grid.load(RECIPE / "evaluation.yaml")
    assert wanted.model == config.model.path and config.data.max_tokens == Arguments().max_tokens
    assert config.model.path == str(Arguments().tokenizer)
    assert config.data.train == (str(Arguments().out / "train.jsonl"),)
    labels = [condition.label for condition in wanted.conditions()]
    assert labels[:6] == [f"budget {n}" for n in (0, 16, 32, 64, 128, 256)]
    assert labels[6:11] == [f"{n}x Wait" for n in range(5)]


def test_the_adapter_stays_below_its_20_megabytes():
    """Of SmolLM2-135M: 30 layers, width 576, 192 for keys and values, 1,536 between."""
    lora = load_config(RECIPE / "train.yaml").lora
    widths = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]
    assert lora is not None and len(lora.targets) == len(widths)
    assert 30 * lora.rank * sum(map(sum, widths)) * 4 + 100_000 < 20e6


@needs_data
def test_the_400_questions_are_always_the_same():
    task = tasks.load(grid.load(RECIPE / "evaluation.yaml").tasks[0])
    names = "\n".join(problem.id for problem in task.problems)
    assert len(task.problems) == 400
    assert hashlib.sha256(names.encode()).hexdigest().startswith("d421b11c20be5355")
