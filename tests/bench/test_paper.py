"""The page of the paper, what it is made of, and the steps that make it."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from bench.evaluation import metrics
from bench.house import ROOT
from bench.paper import claims, control, corpus, measure, page, plan, results
from bench.paper.__main__ import Files, PartName, main
from bench.paper.pool import chosen, pool, repeated
from bench.paper.results import formed
from bench.paper.steps import Step, Steps
from curate.families import problems
from curate.families.problem import WAIT
from engine.errors import EngineDead
from engine.text.tokenizer import Tokenizer

NANO = ROOT / "models" / "s1-nano"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(NANO)


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [row | {"solved": at % 5 == 0} for at, row in enumerate(pool(tokenizer, 200, 7))]


# The page.


def test_the_page_is_what_its_results_say():
    told = json.loads((ROOT / Files().results).read_text())
    assert page.text(told, "figures") == (ROOT / Files().page).read_text(), "run python -m bench.paper --page"


def test_every_link_and_figure_of_the_page_is_there():
    text = (ROOT / Files().page).read_text()
    headings = [re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()]
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(links) >= 20 and set(links) <= set(headings)
    figures = re.findall(r"\]\((figures/\S+)\)", text)
    assert len(figures) == 6 and all(
        (ROOT / "docs" / f"{name}.svg").exists()
        for name in figures
        for name in [name[:-4] if name.endswith(".png") else name]
    )


def test_the_claims_follow_from_the_numbers_beside_them():
    told = json.loads((ROOT / Files().results).read_text())
    assert [vars(claim) for claim in claims.claims(told)] == told["claims"]


def test_what_was_measured_is_as_much_as_was_promised():
    told = json.loads((ROOT / Files().results).read_text())
    found = [row for row in _dicts(told) if "accuracy" in row and "questions" in row]
    some = [row for row in found if "part_of_all" in row]  # of rejection, which has all of them beside it
    assert len(found) > 100 and all(row["questions"] >= 1000 for row in found if row not in some)
    beside = told["table3"]["curves"]["rejection"]["points"]
    assert [row["name"] for row in some] == [row["name"] for row in beside]
    tuned = told["table2"]["rows"] + told["sizes"]["rows"] + told["table8"]["rows"]
    assert all(len(row["seeds"]) == 3 for row in tuned)
    assert [row["name"] for row in told["table2"]["rows"]] == list(page.NAMES)


def _dicts(value):
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _dicts(one)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.06, 0.1, claims.HOLDS), (-0.1, 0.04, claims.NOT), (0.04, 0.1, claims.OPEN)]
)
def test_a_verdict_is_where_the_interval_lies(low, high, verdict):
    assert claims.above({"low": low, "high": high}, 0.05) == verdict
    assert claims.below({"low": -high, "high": -low}, -0.05) == verdict
    assert claims.above(None) == claims.below(None) == claims.OPEN


def test_the_template_has_no_measured_number_of_its_own():
    """What stands in digits outside of its expressions is the paper's, a name, or a rule of the text's own."""
    template = (ROOT / "bench/paper/page.md.jinja").read_text()
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\(arXiv [\d.]+\)|`[^`]*`", " ", template, flags=re.DOTALL)
    found = set(re.findall(r"\d[\d.,]*\d|\d", text))
    assert found <= {
        *("32", "30", "0.9", "95", "4", "16", "20", "5", "2", "1", "0"),  # sizes, bounds and names of conditions
        *("4a", "4b", "7", "8", "3", "6", "5", "26", "655", "51", "59,029", "4.7", "74", "100"),  # the paper's
    }


def test_several_must_all_say_the_same():
    assert claims.all_of([claims.HOLDS, claims.HOLDS]) == claims.HOLDS
    assert claims.all_of([claims.HOLDS, claims.OPEN]) == claims.OPEN
    assert claims.all_of([claims.HOLDS, claims.OPEN, claims.NOT]) == claims.NOT


# What models are trained on.


def test_the_base_sees_no_thought(tokenizer):
    from tokenizers import Tokenizer as Plain

    seen = 0
    for record in corpus.records(Plain.from_file(str(NANO / "tokenizer.json")), 300, 3):
        text = tokenizer.decode(record["tokens"])
        said = text.partition("<|im_start|>assistant\n")[2]
        assert "<|im_start|>think" not in text and WAIT not in said and "not found" not in said
        assert len(record["tokens"]) <= corpus.LONGEST
        assert len(record["trained"]) == len(record["tokens"])
        assert tokenizer.decode([t for t, on in zip(record["tokens"], record["trained"], strict=True) if on]) == said
        seen += said.startswith("<|im_start|>answer\nAnswer: ")
    assert 0.2 < seen / 300 < 0.4


def test_no_piece_is_a_thought_from_its_beginning_to_where_it_may_stop():
    rng = Random(4)
    for problem in islice(problems("train", 9), 400):
        stops = {"\n".join(problem.rounds[0].lines), "\n".join(line for part in problem.rounds for line in part.lines)}
        assert not any(piece in stops for _ in range(5) for piece in corpus.pieces(problem, rng).split("\n\n"))


def test_the_pool_has_the_train_side_alone_and_each_question_once(rows):
    heldout = {p.prompt for p, _ in zip(problems("heldout", 7), range(2000), strict=False)}
    questions = [row["question"] for row in rows]
    assert len(set(questions)) == len(questions) and not heldout & set(questions)
    assert any(WAIT in row["thinking"] for row in rows) and any(not row["correct"] for row in rows)


def test_the_choice_is_what_its_name_says(rows):
    lengths = {mode: [r["trace_tokens"] for r in chosen(rows, mode, 40, 1)] for mode in ("paper", "random", "longest")}
    assert sorted(lengths["longest"], reverse=True) == sorted((r["trace_tokens"] for r in rows), reverse=True)[:40]
    assert np.mean(lengths["random"]) < np.mean(lengths["paper"]) < np.mean(lengths["longest"])
    assert not any(row["solved"] for row in chosen(rows, "paper", 40, 1))
    assert any(row["solved"] for row in chosen(rows, "random", 40, 1))
    assert len(chosen(rows, "full", 40, 1)) == len(rows)
    assert chosen(rows, "random", 40, 1) == chosen(rows, "random", 40, 1) != chosen(rows, "random", 40, 2)


def test_too_few_rows_are_not_passed_over(rows):
    with pytest.raises(ValueError, match="170 rows are asked for, and the pool has 160"):
        chosen(rows, "paper", 170, 1)


def test_every_set_gives_as_many_samples(rows):
    few = repeated(rows[:30], 100, 1)
    assert len(few) == 100 and len({row["id"] for row in few}) == 100
    assert {row["question"] for row in few[:30]} == {row["question"] for row in rows[:30]}  # all, before any again


@pytest.mark.parametrize(("length", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_lengths_are_rounded_up_to_powers_of_two(length, power):
    assert control.bucket(length) == power


def _said(record, tokenizer):
    return tokenizer.decode([t for t, on in zip(record["tokens"], record["trained"], strict=True) if on])


def test_steps_are_counted_down_from_what_the_prompt_says(rows, tokenizer):
    for row, record in zip(rows, control.controlled(rows, "step", tokenizer), strict=True):
        text, said = tokenizer.decode(record["tokens"]), _said(record, tokenizer)
        asked = int(re.search(r"Think for up to (\d+) steps\.<\|im_end\|>", text)[1])
        steps = row["thinking"].split("\n")
        assert asked // 2 < len(steps) <= asked
        assert control.countdown(said) == [asked - at for at in range(len(steps))]
        assert re.sub(r"<\|im_start\|>\d+ steps left\n", "", said) == (
            f"{row['thinking']}\n<|im_start|>answer\nAnswer: {row['answer']}<|im_end|>\n"
        )


def test_tokens_and_classes_are_in_the_prompt_and_the_trace_is_as_it_was(rows, tokenizer):
    plain = f"<|im_start|>think\n{rows[0]['thinking']}\n<|im_start|>answer\nAnswer: {rows[0]['answer']}<|im_end|>\n"
    for kind in ("token", "class"):
        records = control.controlled(rows, kind, tokenizer)
        assert _said(records[0], tokenizer) == plain
        texts = [tokenizer.decode(record["tokens"]) for record in records]
        if kind == "token":
            asked = [int(re.search(r"Think for up to (\d+) tokens\.", text)[1]) for text in texts]
            assert all(most // 2 < row["trace_tokens"] <= most for most, row in zip(asked, rows, strict=True))
        else:
            long = [row for row, text in zip(rows, texts, strict=True) if "a long amount of thinking" in text]
            assert 0.3 < len(long) / len(rows) < 0.5  # above the median, with what is equal to it below


def test_a_cut_trace_has_no_end(rows, tokenizer):
    records = control.cut(rows, 90, tokenizer)
    assert max(len(record["tokens"]) for record in records) == 90
    cut = [record for record in records if len(record["tokens"]) == 90]
    assert cut and not any(_said(record, tokenizer).endswith("<|im_end|>\n") for record in cut[:5])
    assert all(len(r["tokens"]) <= 90 for r in control.no_longer(rows, 90, tokenizer))


def test_only_waits_become_other_strings(rows):
    changed = control.several_strings(rows, 1)
    for before, after in zip(rows, changed, strict=True):
        assert re.sub(r"^(Hmm|Alternatively)\b", WAIT, after["thinking"], flags=re.MULTILINE) == before["thinking"]
    assert {name for row in changed for name in control.STRINGS if name in row["thinking"]} == set(control.STRINGS)


@pytest.mark.parametrize(
    ("numbers", "begin", "right"),
    [([4, 3, 2], 4, True), ([4, 3, 2], 8, False), ([4, 3, 2], None, True), ([4, 2], None, False), ([], 4, False)],
)
def test_a_count_is_exact_or_it_is_not(numbers, begin, right):
    assert control.counts_down(numbers, begin) is right


def test_what_a_well_formed_response_is():
    row = {
        "reasoning": "4 steps left\na\n<|im_start|>3 steps left\nb",
        "answer": "Answer: 3",
        "left_thinking": True,
        "stop_reason": "natural",
        "finish_reason": "stop",
    }
    assert formed(row, "step") and not formed(row, "token")
    assert not formed(row | {"reasoning": "4 steps left\na\n<|im_start|>b"}, "step")
    assert not formed(row | {"stop_reason": "budget"}, "step")
    assert not formed(row | {"answer": "3"}, "step")


# Numbers.


def test_an_interval_knows_that_seeds_differ():
    rng = np.random.default_rng(1)
    right = (rng.random((3, 400)) < np.array([[0.3], [0.5], [0.7]])).astype(float)
    both, questions = measure.estimate(right), measure.estimate(right.mean(axis=0)[None])
    assert both.value == pytest.approx(right.mean()) == pytest.approx((both.low + both.high) / 2)
    assert both.high - both.low > 5 * (questions.high - questions.low)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.05])
def test_of_twenty_true_differences_nineteen_are_within(spread):
    """Two sides of three seeds that differ by nothing but seeds and questions, a thousand times."""
    rng, missed = np.random.default_rng(3), 0
    for _ in range(1000):
        hard = rng.random(300)
        sides = [
            (rng.random((3, 300)) < np.clip(hard + rng.normal(0, spread, (3, 1)), 0, 1)).astype(float) for _ in range(2)
        ]
        found = measure.estimate(*sides)
        missed += not found.low <= 0 <= found.high
    assert missed < 70


def test_one_model_has_the_interval_of_its_questions():
    """Against scipy's paired t test."""
    rng = np.random.default_rng(5)
    one, other = ((rng.random((1, 500)) < share).astype(float) for share in (0.5, 0.6))
    found = measure.estimate(one, other)
    known = stats.ttest_rel(one[0], other[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_a_difference_is_paired_by_question():
    hard = np.repeat([[0.0, 1.0]], 200, axis=1)  # the same questions right on both sides
    assert measure.estimate(hard, hard) == measure.Estimate(0.0, 0.0, 0.0)


def test_the_same_models_under_two_conditions_are_paired_by_seed():
    rng = np.random.default_rng(6)
    right = (rng.random((3, 400)) < np.array([[0.3], [0.5], [0.7]])).astype(float)
    one, other = (measure.Runs(right, right, (name,)) for name in ("a", "b"))
    assert one.over(one) == measure.Estimate(0.0, 0.0, 0.0)
    assert one.over(other).low < -0.2 and one.over(other).high > 0.2  # other models, which happen to be alike


def test_the_slope_is_that_of_the_accuracies():
    rng = np.random.default_rng(2)
    found = [
        measure.Runs((rng.random((2, 50)) < share).astype(float), np.full((2, 50), tokens))
        for share, tokens in ((0.2, 16.0), (0.5, 64.0), (0.6, 80.0), (0.9, 256.0))
    ]
    points = [metrics.Point(r.thinking.mean(), r.right.mean()) for r in found]
    assert measure.scaling(found).value == pytest.approx(metrics.scaling(points, metrics.SPREAD_DOUBLINGS).value)
    assert measure.scaling(found[1:3]) is None  # too near each other


# Steps.

SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from bench.paper.steps import Step, Steps

    def write(place):
        with (place.folder / "began").open("a") as file:
            file.write("x")
        while place.name == "slow" and not (place.out / "go").exists():
            time.sleep(0.05)
        (place.folder / "result").write_text(place.name)

    def all_steps(out, setting=1):
        made = [Step("first", 1, write, {"setting": setting}), Step("slow", 1, write, {}, ("first",))]
        return Steps([*made, Step("apart", 1, write, {}), Step("last", 1, write, {}, ("slow", "apart"))], Path(out))

    def command(out):
        return lambda name: [sys.executable, __file__, out, name]

    if __name__ == "__main__":
        out, name = sys.argv[1:]
        if name == "all":
            all_steps(out).run(command(out), 2, print)
        else:
            all_steps(out).perform(name)
    """
)


@pytest.fixture
def stepped(tmp_path, monkeypatch):
    script = tmp_path / "some_steps.py"
    script.write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("some_steps", None)
    import some_steps

    return script, some_steps


def _until(told, seconds=30.0):
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_steps_go_on_and_what_is_done_is_not_done_again(stepped, tmp_path, how):
    script, _ = stepped
    out = tmp_path / "out"
    command = [sys.executable, str(script), str(out), "all"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment)
    _until((out / "slow" / "began").exists)
    _until((out / "apart" / "done.json").exists)
    first.send_signal(how)
    assert first.wait(20) != 0
    _until(lambda: not _running(str(out), "slow"))  # nothing is left behind that would write into the next run's folder
    assert not (out / "last").exists()
    (out / "go").touch()
    subprocess.run(command, env=environment, check=True, timeout=60)
    began = {name: (out / name / "began").read_text() for name in ("first", "slow", "apart", "last")}
    assert began == {"first": "x", "slow": "xx", "apart": "x", "last": "x"}


def _running(*words):
    lines = [f.read_bytes().split(b"\0") for f in Path("/proc").glob("[0-9]*/cmdline") if os.access(f, os.R_OK)]
    return any(all(word.encode() in line for word in words) for line in lines)


def test_other_settings_are_another_result(stepped, tmp_path):
    _, module = stepped
    before, after = module.all_steps(tmp_path), module.all_steps(tmp_path, setting=2)
    (tmp_path / "go").touch()
    for step in before.all:
        before.perform(step.name)
    assert before.left() == [] and [step.name for step in after.left()] == ["first", "slow", "last"]
    after.perform("first")
    assert (tmp_path / "first" / "began").read_text() == "x"  # from nothing


def test_a_step_that_fails_says_why_and_where(tmp_path, capsys):
    steps = Steps([Step("broken", 1, lambda place: None, {})], tmp_path)
    command = [sys.executable, "-c", "import sys; print('no room'); sys.exit(3)"]
    with pytest.raises(EngineDead, match=r"step broken ended with code 3; .*broken\.txt"):
        steps.run(lambda name: command, 1, print)
    assert "no room" in capsys.readouterr().err


def test_a_part_has_its_steps_and_what_they_need(tmp_path):
    steps = Steps(plan.steps(plan.Scale()), tmp_path)
    found = {name: {step.name for step in steps.only(stems).all} for name, stems in plan.PARTS.items()}
    assert found["table8"] == {"base", "pool", *(f"{name}-{seed}" for name in ("random", "cut") for seed in (1, 2, 3))}
    assert found["figure1"] == {"nano-groups"} and set().union(*found.values()) == {step.name for step in steps.all}
    assert list(plan.PARTS) == list(results.PARTS) == list(get_args(PartName))


def test_the_plan_is_told_and_does_nothing(tmp_path, capsys):
    assert main(["--plan", "--out", str(tmp_path / "none")]) == 0
    told = capsys.readouterr().err
    assert "control-step-3" in told and "about" in told and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_all_of_it_in_small_killed_twice(tmp_path):
    """Once politely, while the base is trained, and once at a blow, between a model's training and its end."""
    out = tmp_path / "paper"
    command = [sys.executable, "-m", "bench.paper", "--rehearsal", "--out", str(out)]

    def training() -> bool:
        log = out / "logs" / "base.txt"
        return log.exists() and "parameters" in log.read_text()

    def evaluating() -> bool:
        return any(not (mark.parents[1] / "done.json").exists() for mark in out.glob("*-1/run/finished"))

    for reached, how in ((training, signal.SIGTERM), (evaluating, signal.SIGKILL)):
        process = subprocess.Popen(command, cwd=ROOT)
        _until(reached, 300)
        process.send_signal(how)
        assert process.wait(60) != 0
    before = {file: file.stat().st_mtime_ns for file in [*out.glob("*/done.json"), *out.glob("*/run/finished")]}
    subprocess.run(command, cwd=ROOT, check=True)
    assert before and all(file.stat().st_mtime_ns == at for file, at in before.items())  # and nothing was trained twice
    told = json.loads((out / "paper.json").read_text())
    assert page.text(told, "figures") == (out / "paper.md").read_text()
    assert len(list((out / "figures").glob("*.svg"))) == 12
