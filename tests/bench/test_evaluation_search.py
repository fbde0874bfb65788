"""Searches as methods of a grid, on s1-nano: every method, tokens to the last one, kills, oracles, refusals."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from evaluation_data import ENGINE, MODEL, make, rows_of, write_gpqa
from safetensors.torch import load_file, save_file

from bench.evaluation import accuracy, browse, grade, outcomes, plot, publish, run, searching, tables, tasks
from bench.evaluation.ballot import Ballot, Booth
from bench.evaluation.engine_backend import EngineBackend
from bench.evaluation.grid import load
from bench.evaluation.jobs import Place, Setting
from bench.evaluation.log import Key
from bench.evaluation.search_rewards import Rewards
from bench.evaluation.tasks import Problem
from curate.families import check
from curate.grading.grade import AnswerKind, Grader
from engine import Engine, InputError, SamplingParams
from engine.search.branch import Branch, Ledger
from tests.checkpoints import write_random_checkpoint

# At this heat s1-nano's samples differ, and are right now and then.
HOT = {"temperature": 2.0, "budget": 96, "stop": "\n"}
MODELLED = {"model": MODEL, "labels": ["1", "0"], "mark": "<|im_end|>", "engine": {"kv_cache_tokens": 8192}}
SEARCHES = [
    {"method": "rebase", "widths": [2, 4], "reward": "oracle", **HOT},
    {"method": "rebase", "widths": [4], "reward": MODELLED, "balance": 0.5, "rule": "paper", **HOT},
    {"method": "beam", "counts": [4], "reward": "logprob", "keep_one_of": 2, "choice": "best", **HOT},
    {"method": "dvts", "counts": [4], "reward": "random", "keep_one_of": 2, "extensions": 1, **HOT},
    {"method": "best_of", "samples": [4], "reward": "oracle", **HOT},
    {"method": "weighted", "samples": [4], "reward": "constant", "step_tokens": 24, **HOT},
    {"method": "adaptive", "samples": [6], "window": 2, "tree_tokens": 150, **HOT},
    {"method": "deepconf", "samples": [4], "group": "lowest", "window": 16, "keep": 0.5, **HOT},
    {"method": "short_m", "samples": [4], "m": 2, "slice_tokens": 16, **HOT},
]
ALONE = [{"method": "budget", "budgets": [64]}, {"method": "extensions", "extensions": [1], "budget": 192}]
COUNT = 6
ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from bench.evaluation import grid, run
run.run(grid.load(Path(sys.argv[1])), Path(sys.argv[2]))
"""
VOLATILE = ("at", "timing", "cached_tokens")
"""Fields of a row that say when and beside what it was made."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A graded run of every method, from a file."""
    root = tmp_path_factory.mktemp("searches")
    file = root / "grid.yaml"
    file.write_text(json.dumps(msgspec.to_builtins(make(*ALONE, *SEARCHES, count=COUNT))))
    run.run(load(file), root / "run")
    grade.grade(root / "run")
    return root / "run"


def searched(folder):
    return {key: row for key, row in rows_of(folder).items() if row["source"] == "search"}


def settled(folder):
    """Rows by key, as often as they come out."""
    return {
        key: {name: value for name, value in row.items() if name not in VOLATILE}
        for key, row in rows_of(folder).items()
    }


def test_every_method_runs_from_a_file_and_is_one_row_per_problem(folder):
    rows = searched(folder)
    labels = {key.condition for key in rows}
    assert labels == {
        "rebase oracle 2",
        "rebase oracle 4",
        "rebase s1-nano balance 0.5 rule paper 4",
        "beam logprob best 1 of 2 4",
        "dvts random 1 of 2 1x Wait 4",
        "best_of oracle 4",
        "weighted constant 4",
        "adaptive beta window 2 of 150 tokens 6",
        "deepconf lowest window 16 keep 0.5 4",
        "short_m m 2 4",
    }
    assert len(rows) == len(labels) * COUNT and {key.sample for key in rows} == {0}
    for row in rows.values():
        found = row["search"]
        leaf = found["leaves"][found["chosen"]]
        assert (leaf["tokens"], leaf["thinking_tokens"]) == (len(row["token_ids"]), row["thinking_tokens"])
        assert row["completion_tokens"] == leaf["tokens"] <= found["path_tokens"]
        assert row["thinking_tokens"] <= 96 and row["left_thinking"] and row["error"] is None
        assert row["generated"] == found["unique_tokens"] == sum(node["tokens"] for node in found["nodes"])
        for node in found["nodes"]:
            above = None if node["parent"] is None else found["nodes"][node["parent"]]
            assert node["depth"] == (0 if above is None else above["depth"] + 1)
            assert above is None or not above["finished"]
        size, costs = found["parameters"], found["reward_tokens"]
        assert found["flops"] == 2 * (size["policy"] * row["generated"] + size["reward"] * costs["computed"])
        assert (costs["computed"] > 0) == (size["reward"] > 0) == ("s1-nano" in row["condition"])
        # What a search asks for is in the engine at once as a plain sample's path is.
        assert row["answer"] == "" or row["answer"] in "".join(node["text"] for node in found["nodes"])
    assert any(len({leaf["answer"] for leaf in row["search"]["leaves"]}) > 1 for row in rows.values())


def test_the_oracles_best_of_n_is_pass_at_n(folder):
    problems = {problem.id: problem for task in grade.load_tasks(folder).values() for problem in task.problems}
    cells = {cell.condition.label: cell for cell in outcomes.load(folder).cells}
    passed = []
    for problem in problems.values():
        row = searched(folder)[Key("s1_nano", problem.id, "best_of oracle 4", 0)]
        answers = [leaf["answer"] for leaf in row["search"]["leaves"]]
        assert len(answers) == 4
        rights = [answer is not None and check(problem.family, problem.question, answer) for answer in answers]
        assert [leaf["score"] for leaf in row["search"]["leaves"]] == list(map(float, rights))
        passed.append(float(any(rights)))
    assert cells["best_of oracle 4"].means == passed and 0 < sum(passed) < len(passed)
    # The same four samples, voted for without a score, are right no more often.
    assert cells["weighted constant 4"].accuracy <= cells["best_of oracle 4"].accuracy


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"method": "rebase", "widths": [6]}, {"method": "best_of", "samples": [6]}])
def test_who_knows_more_chooses_better(tmp_path, method):
    """Of the oracle, s1-nano's own reward model, chance, and the oracle that lies, in this order."""
    model = {"model": str(ROOT / "models" / "s1-nano-prm"), "engine": {"kv_cache_tokens": 16384}}
    rewards = ("oracle", model, "random", "inverted")
    file = tmp_path / "grid.yaml"
    rows = [{**method, "reward": reward, "name": f"by {n}", **HOT} for n, reward in enumerate(rewards)]
    file.write_text(json.dumps(msgspec.to_builtins(make(*rows, count=80))))
    run.run(load(file), tmp_path / "run")
    grade.grade(tmp_path / "run")
    right = [cell.accuracy for cell in outcomes.load(tmp_path / "run").cells]
    assert right == sorted(right, reverse=True) and right[0] > right[-1] + 0.15, right


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, **ENGINE) as engine:
        yield engine


def test_unique_tokens_are_the_engines_and_reward_tokens_are_the_trees(engine):
    what = make(*SEARCHES, count=1)
    (task,) = (tasks.load(spec) for spec in what.tasks)
    conditions = what.conditions()
    setting = Setting(None, EngineBackend(engine), what.prompt, what.system, what.seed)  # nothing is written
    with Rewards(engine, [c.search.reward for c in conditions]) as rewards, Grader() as grader:
        room = searching.Room(setting, engine, rewards, Booth(grader))
        for condition in conditions:
            before = engine.stats()["decode_tokens"]
            _, row = searching.run_one(room, Place(task, task.problems[0], 0), condition)
            # A step's first token comes from its prompt's last one, every other from the token before it.
            computed = engine.stats()["decode_tokens"] - before + len(row["search"]["nodes"])
            assert row["generated"] == computed, condition.label
    engine.check()


def test_what_a_reward_model_computes_is_counted_for_the_search_alone(engine):
    """All that is scored is what the model read; of it a search computes each part of its own tree once."""
    spec = make(SEARCHES[1]).conditions()[0].search.reward
    problem = Problem("p", "", "?", "1", AnswerKind.NUMBER)
    prompt = engine.prepare({"messages": [{"role": "user", "content": "Start with 5.\nAdd 3."}]}).prompt
    counts = []
    with Rewards(engine, [spec]) as rewards, Grader() as grader:
        for _ in range(2):  # the second time the model has read it all
            reward, ledger = rewards.of(spec, problem, Ballot(problem, Booth(grader))), Ledger()
            root = Branch(engine, prompt, SamplingParams(temperature=2.0, max_tokens=60, seed=3), ledger)
            root.step(max_tokens=7)
            reward([root])
            asked = len(prompt) + 7 + 1
            assert (reward.computed, reward.reused) == (asked, 0)
            twins = root.spread(3)
            for twin in twins:
                twin.step(max_tokens=5)
            reward(twins)
            lengths = [len(twin.token_ids) - 7 + 1 for twin in twins]
            assert (reward.computed, reward.reused) == (asked + sum(lengths), 3 * asked)
            assert ledger.scored + ledger.reused == reward.computed + reward.reused
            counts.append((reward.computed, reward.reused, ledger.scored))
    assert counts[0][:2] == counts[1][:2] and counts[0][2] > counts[1][2] == 0


def test_a_search_is_the_same_whatever_runs_beside(folder, tmp_path):
    """Alone and one problem at a time, against beside everything else and several at a time: every score, every bit."""
    named = ("beam logprob best 1 of 2 4", "rebase s1-nano balance 0.5 rule paper 4")
    alone = make(SEARCHES[2], SEARCHES[1], count=COUNT, engine={**ENGINE, "max_num_seqs": 4})
    run.run(alone, tmp_path / "alone")
    beside = settled(folder)
    for key, row in settled(tmp_path / "alone").items():
        assert key.condition in named
        assert {**row, "config": ""} == {**beside[key], "config": ""}, key


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_any_moment_lose_no_row_and_change_none(folder, tmp_path, kills):
    """The process is killed again and again; what it leaves is gone on with, and ends as the run that nobody killed."""
    source, target, file = random.Random(7), tmp_path / "run", tmp_path / "grid.yaml"
    few = make(*SEARCHES[1:4], SEARCHES[6], count=COUNT)
    file.write_text(json.dumps(msgspec.to_builtins(few)))
    log = target / "samples.jsonl"
    whole_size = 4 * COUNT
    for kill in range(1, kills + 1):
        wanted = kill * whole_size // (2 * kills)
        process = subprocess.Popen([sys.executable, "-c", RUN, file, target], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < wanted):
            time.sleep(0.002)
        time.sleep(source.random() / 20)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert wanted <= log.read_bytes().count(b"\n") < whole_size
    run.run(few, target)
    whole, found = settled(folder), settled(target)
    assert found.keys() == {key for key in whole if key.condition in {c.label for c in few.conditions()}}
    assert all({**row, "config": ""} == {**whole[key], "config": ""} for key, row in found.items())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "rebase", "widths": [4]}, r"reward is missing"),
        ({"method": "best_of", "samples": [4]}, r"reward is missing"),
        ({"method": "rebase", "widths": [0], "reward": "oracle"}, r"method rebase: widths is \[0\]; give numbers"),
        ({"method": "short_m", "samples": [], "m": 1}, r"method short_m: samples is \[\]"),
        ({"method": "short_m", "samples": [4], "m": 5}, "m is 5 of 4 samples"),
        ({"method": "beam", "counts": [6], "reward": "oracle"}, "method beam: counts hold 6 and keep_one_of is 4"),
        (
            {"method": "dvts", "counts": [4], "reward": MODEL},
            r"method dvts: reward is '.*s1-nano'; give logprob, .*, or \{model: FOLDER\} of a reward model",
        ),
        ({"method": "rebase", "widths": [4], "reward": "oracle", "temperature": 0}, "temperature is 0"),
        ({"method": "rebase", "widths": [4], "reward": "oracle", "balance": 0}, "balance is 0"),
        ({"method": "rebase", "widths": [4], "reward": "oracle", "rule": "mine"}, "mine"),
        ({"method": "rebase", "widths": [4], "reward": "oracle", "stop": ""}, "method rebase: steps with marks"),
        ({"method": "rebase", "widths": [4], "reward": "oracle", "budget": -1}, "thinking_token_budget is -1"),
        ({"method": "weighted", "samples": [4], "reward": {"model": MODEL, "lables": ["1"]}}, "lables"),
        (
            {"method": "weighted", "samples": [4], "reward": {"model": MODEL, "engine": {"gpu": 1}}},
            "unknown field 'gpu'",
        ),
        ({"method": "adaptive", "samples": [4, 4]}, "'adaptive beta 4' stands in the grid twice"),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_name(method, message):
    with pytest.raises(InputError, match=message):
        make(method)


def test_what_shows_only_with_the_models_is_refused_before_anything_is_generated(tmp_path):
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    with pytest.raises(InputError, match="'adaptive beta 4' searches, which only the engine in this process can"):
        make({"method": "adaptive", "samples": [4]}, endpoint=endpoint)
    for reward, message in (
        ({"model": str(tmp_path / "nothing")}, "nothing"),
        ({"model": MODEL}, f"reward model {MODEL}: labels is .* the model is no reward model"),
        ({"model": MODEL, "labels": ["1", "nought"]}, f"reward model {MODEL}: labels has 'nought'"),
    ):
        with pytest.raises(InputError, match=message):
            run.run(make({"method": "best_of", "samples": [2], "reward": reward}, count=2), tmp_path / "run")
        assert not list((tmp_path / "run").glob("samples.jsonl")) or not rows_of(tmp_path / "run")
        for file in (tmp_path / "run").glob("*"):
            file.unlink()


def test_what_the_engine_cannot_is_refused_before_anything_is_generated(tmp_path):
    too_many = {"method": "deepconf", "samples": [2], "top": 65, **HOT}
    with pytest.raises(InputError, match="logprobs is 65 and the engine's max_logprobs 64"):
        run.run(make(*ALONE, too_many, count=2), tmp_path)
    assert not rows_of(tmp_path)


def test_private_questions_leave_no_text_in_trees(tmp_path):
    sha256 = write_gpqa(tmp_path / "gpqa.csv")
    spec = {"name": "gpqa_diamond", "path": str(tmp_path / "gpqa.csv"), "sha256": sha256, "count": 2}
    what = make({"method": "beam", "counts": [2], "keep_one_of": 2, "reward": "oracle", **HOT}, tasks=[spec])
    run.run(what, tmp_path / "run")
    for row in rows_of(tmp_path / "run").values():
        assert row["search"]["nodes"] and not any(node["text"] for node in row["search"]["nodes"])
        assert {leaf["answer"] for leaf in row["search"]["leaves"]} <= {None, *"ABCD"}
        assert row["reasoning"] == row["answer"] == "" and row["token_ids"] == [] and row["choice"] is not None


def write_head(folder):
    """s1-nano with a head of two labels for every token: a reward model, which has learned nothing."""
    folder.mkdir()
    for file in Path(MODEL).glob("*token*.json"):
        shutil.copy(file, folder)
    weights = load_file(Path(MODEL) / "model-00001-of-00001.safetensors")
    generator = torch.Generator().manual_seed(1)
    size = json.loads((Path(MODEL) / "config.json").read_text())
    weights |= {
        "score.weight": torch.randn((2, size["hidden_size"]), generator=generator).to(torch.bfloat16) / 4,
        "score.bias": torch.zeros(2, dtype=torch.bfloat16),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    made = {"architectures": ["Qwen2ForTokenClassification"], "id2label": {"0": "0", "1": "1"}}
    (folder / "config.json").write_text(json.dumps(size | made))


def test_a_reward_model_with_a_head_scores_its_own_trees(tmp_path):
    """The tree's scores are the model's of the whole paths; two methods share its engine, with and without a mark."""
    write_head(tmp_path / "prm")
    reward = {"model": str(tmp_path / "prm"), "engine": {"kv_cache_tokens": 8192}}
    methods = [
        {"method": "best_of", "samples": [3], "reward": reward, **HOT},
        {"method": "beam", "counts": [4], "reward": {**reward, "mark": "<|im_end|>"}, "aggregate": "min", **HOT},
    ]
    run.run(make(*methods, count=2), tmp_path / "run")
    config = {**ENGINE, "model": str(tmp_path / "prm"), "kv_cache_tokens": 8192}
    with Engine(MODEL, **ENGINE) as policy, Engine(**config) as judge:
        for key, row in rows_of(tmp_path / "run").items():
            found, least = row["search"], row["condition"].startswith("beam")
            assert found["reward_tokens"]["computed"] > 0 and found["flops"] > 2 * found["parameters"]["reward"]
            lines = policy.tokenizer.decode(row["token_ids"]).splitlines(keepends=True)
            question = next(
                p.question for p in grade.load_tasks(tmp_path / "run")["s1_nano"].problems if p.id == key.problem
            )
            prompt = policy.prepare({"messages": [{"role": "user", "content": question}]}).prompt
            steps, ids = [], list(row["token_ids"])
            for length in path_to(found, len(ids), lines):
                steps.append(ids[:length])
                ids = ids[length:]
            values = judge.score(list(prompt), steps, "<|im_end|>" if least else None).values
            told = found["leaves"][found["chosen"]]["score"]
            assert told == (min(values) if least else values[-1])


def path_to(found, length, lines):
    """Lengths of the steps of the path that has these lines."""
    for at, node in enumerate(found["nodes"]):
        way = []
        while at is not None:
            way.insert(0, found["nodes"][at])
            at = found["nodes"][at]["parent"]
        text = "".join(one["text"] for one in way)
        if node["finished"] and sum(one["tokens"] for one in way) == length and "".join(lines).startswith(text):
            return [one["tokens"] for one in way]
    raise AssertionError("the chosen leaf is not in the tree")


def test_a_reward_model_with_other_tokens_is_refused(tmp_path):
    write_random_checkpoint(tmp_path / "other")
    reward = {"model": str(tmp_path / "other"), "labels": [1, 2], "engine": {"kv_cache_tokens": 4096}}
    with pytest.raises(InputError, match="its tokenizer is not the policy's"):
        run.run(make({"method": "best_of", "samples": [2], "reward": reward}, count=2), tmp_path / "run")


def test_another_reward_model_is_another_run(tmp_path):
    copy = tmp_path / "reward"
    copy.mkdir()
    for file in Path(MODEL).glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    reward = {"model": str(copy), "labels": ["1", "0"], "engine": {"kv_cache_tokens": 4096}}
    what = make({"method": "best_of", "samples": [2], "reward": reward, **HOT}, count=1)
    run.run(what, tmp_path / "run")
    (copy / "generation_config.json").write_text('{"temperature": 0.5}')
    with pytest.raises(InputError, match=r"rewards\[0\].fingerprint"):
        run.run(what, tmp_path / "run")


def test_a_path_beyond_the_reward_models_context_is_a_row_that_says_so(tmp_path):
    reward = {**MODELLED, "engine": {"kv_cache_tokens": 8192, "max_model_len": 48}}
    run.run(make({"method": "best_of", "samples": [2], "reward": reward, **HOT}, count=2), tmp_path)
    for row in rows_of(tmp_path).values():
        assert (
            row["source"] == "search"
            and "the context holds" in row["error"]
            and row["answer"] == ""
            and "search" not in row
        )
    grade.grade(tmp_path)
    (cell,) = outcomes.load(tmp_path).cells
    assert cell.accuracy == 0 and all(o.graded.rule == "error" for o in cell.outcomes)
    report = accuracy.report(outcomes.load(tmp_path), "s1-engine", "answer")
    assert report["tasks"][0]["conditions"][0]["errors"] == 2 and tables.markdown(report)


def test_a_step_that_fails_is_tried_again_then_flagged(tmp_path, monkeypatch):
    what = make({"method": "best_of", "samples": [2], "reward": "constant", **HOT}, count=2)
    broken = tasks.load(what.tasks[0]).problems[0].id
    grown, tried = searching.Walk.grow, []

    def grow(self, branches):
        grown(self, branches)
        if self.root.prompt == first:
            tried.append(1)
            raise searching.StepFailed("out of luck")

    with Engine(MODEL, **ENGINE) as engine:
        messages = [{"role": "user", "content": tasks.load(what.tasks[0]).problems[0].question}]
        first = tuple(engine.prepare({"messages": messages}).prompt)
    monkeypatch.setattr(searching.Walk, "grow", grow)
    run.run(what, tmp_path)
    rows = {key.problem: row for key, row in rows_of(tmp_path).items()}
    assert len(tried) == 3 and rows[broken]["error"] == "out of luck" and rows[broken]["tries"] == 3
    assert all(row["error"] is None for problem, row in rows.items() if problem != broken)


def test_the_report_compares_costs_and_pairs(folder):
    report = accuracy.report(outcomes.load(folder), "s1-engine", "answer")
    (task,) = report["tasks"]
    by_label = {row["condition"]: row for row in task["conditions"]}
    rows = searched(folder)
    for label, row in by_label.items():
        mine = [one for key, one in rows.items() if key.condition == label]
        if not mine:
            assert "search" not in row and row["cost"]["unique_tokens"] == row["completion_tokens"]
            size = next(iter(rows.values()))["search"]["parameters"]["policy"]
            assert math.isclose(row["cost"]["flops"], 2 * size * row["completion_tokens"], rel_tol=1e-7)
            continue
        assert math.isclose(row["cost"]["unique_tokens"], sum(one["generated"] for one in mine) / COUNT, abs_tol=1e-5)
        assert math.isclose(row["cost"]["flops"], sum(one["search"]["flops"] for one in mine) / COUNT, rel_tol=1e-9)
        tokens = {label: by_label[label]["cost"]["unique_tokens"] for label in ("budget 64", "1x Wait")}
        cheaper = {
            label: by_label[label]["accuracy"] for label in tokens if tokens[label] <= row["cost"]["unique_tokens"]
        }
        over = row["search"]["over"]
        assert over["of"] == max(cheaper, key=cheaper.get)
        assert math.isclose(over["difference"], row["accuracy"] - by_label[over["of"]]["accuracy"], abs_tol=2e-6)
    assert {row["method"] for row in task["methods"]} == {"budget forcing"}
    table = tables.searches(task)
    assert len(table) == 2 + len(by_label) and "reward tokens (reused)" in table[0]
    assert all(any(line.startswith(f"| {label} |") for line in table) for label in by_label)
    assert "\n".join(table) in tables.markdown(report)


def test_a_record_holds_costs_and_what_they_gain(folder, tmp_path):
    report = accuracy.report(outcomes.load(folder), "s1-engine", "answer")
    publish.append_records(report, grade.load_grid(folder), 1.0, tmp_path / "records.jsonl")
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    for record, row in zip(records, report["tasks"][0]["conditions"], strict=True):
        figures = record["figures"]
        assert ("gain_at_cost" in figures) == ("search" in row)
        if "search" in row:
            over = row["search"]["over"]
            told = (over["difference"], over["low"], row["cost"]["flops"], row["cost"]["reward_tokens"])
            names = ("gain_at_cost", "gain_at_cost_low95", "flops", "reward_tokens")
            assert [figures[name] for name in names] == [value and float(f"{value:.4g}") for value in told]


def test_the_figure_has_every_method_on_both_axes(folder, tmp_path):
    report = accuracy.report(outcomes.load(folder), "s1-engine", "answer")
    files = plot.draw(report, tmp_path)
    data = json.loads((tmp_path / "s1_nano-search.json").read_text())
    tokens, operations = data["panels"]
    assert tokens["x"].startswith("unique tokens") and operations["x"].startswith("MFLOPs")
    series = {row["series"] for row in report["tasks"][0]["conditions"] if "search" in row}
    for panel in (tokens, operations):
        assert {curve["name"] for curve in panel["curves"]} == series | {"one greedy sample: budgets and Waits"}
    curve = next(curve for curve in tokens["curves"] if curve["name"] == "rebase oracle")
    wanted = [
        row["cost"]["unique_tokens"] for row in report["tasks"][0]["conditions"] if row["series"] == "rebase oracle"
    ]
    assert curve["tokens"] == wanted and len(wanted) == 2
    names = {
        curve["name"] for curve in json.loads((tmp_path / "s1_nano-accuracy.json").read_text())["panels"][0]["curves"]
    }
    assert names == {"budget", "extensions Wait"}
    svg = (tmp_path / "s1_nano-search.svg").read_text()
    again = tmp_path / "again"
    plot.draw(report, again)
    assert svg == (again / "s1_nano-search.svg").read_text() and len(files) == 8


def test_the_page_shows_trees_escaped(folder, tmp_path):
    text = browse.write_page(folder).read_text()
    rows = searched(folder)
    assert text.count('<div class="step in') == sum(len(row["search"]["nodes"]) for row in rows.values())
    assert text.count(", taken</strong>") == len(rows) and "<|im_start|>" not in text
    assert "script-src 'sha256-" in text and text.count("<script>") == 1
    for name in ("run.json", "grades.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in lines:
        for node in row.get("search", {}).get("nodes", ()):
            node["text"] = "</code></div><script>alert(1)</script>"
        for leaf in row.get("search", {}).get("leaves", ()):
            leaf["answer"] = "<img src=x>"
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    hostile = browse.write_page(tmp_path).read_text()
    assert hostile.count("<script>") == 1 and "<img" not in hostile and "&lt;script&gt;alert(1)" in hostile


def test_a_trees_rows_go_in_where_it_forks():
    nodes = [{"parent": parent, "n": n} for n, parent in enumerate([None, None, 0, 0, 2, 3, 3])]
    assert [(level, node["n"]) for level, node in browse.tree(nodes)] == [
        (0, 0),
        (1, 2),
        (1, 4),
        (1, 3),
        (2, 5),
        (2, 6),
        (0, 1),
    ]
    assert (
        max(level for level, _ in browse.tree([{"parent": n - n % 2 - 2 if n > 1 else None} for n in range(60)])) == 12
    )


def test_an_oracle_says_what_is_known(engine):
    """A leaf's grade; before that the share of right lines, nothing once one is wrong; inverted it is 1 less that."""
    question = "Use each of 40, 4, 6 and 9 once, with plus and minus only, to make 59."
    problem = Problem("p", "", question, None, AnswerKind.FAMILY, family="countdown4")
    prompt = engine.prepare({"messages": [{"role": "user", "content": question}]}).prompt
    with Rewards(engine, []) as rewards, Grader() as grader:
        ballot = Ballot(problem, Booth(grader))
        oracle, inverted = (rewards.of(name, problem, ballot) for name in ("oracle", "inverted"))
        right = Branch(engine, prompt, SamplingParams(max_tokens=150, thinking_token_budget=120))
        while not right.finished:
            right.step(stop=("\n",))
        assert right.answer == "Answer: 40+4+6+9"
        (scores,) = oracle([right])
        assert scores[0] == 0.5 and set(scores[1:]) == {1.0}
        assert inverted([right]) == [[1 - score for score in scores]]
        wrong = Branch(engine, prompt, SamplingParams(max_tokens=150))
        wrong.force(engine.tokenizer.encode("\n40, 4, 6 and 9 make 59\n40+4=45 45+6=51 and 9"))
        wrong.step(stop=("\n",))
        assert oracle([wrong]) == [[0.0]] and inverted([wrong]) == [[1.0]]
        other = replace(problem, family="", kind=AnswerKind.NUMBER, reference="59")
        assert rewards.of("oracle", other, Ballot(other, Booth(grader)))([wrong]) == [[0.5]]
        for name in ("random", "constant", "logprob"):
            (first,), (second,) = (rewards.of(name, problem, ballot)([wrong]) for _ in range(2))
            assert first == second and 0 <= first[0] <= 1


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        (AnswerKind.NUMBER, "1/2", "0.5", True),
        (AnswerKind.NUMBER, "7", "8", False),
        (AnswerKind.LATEX, r"\frac{x}{2}", "0.5x", True),
        (AnswerKind.CHOICE, "A", "B", False),
        (AnswerKind.FAMILY, "7.0", "7", True),
        (AnswerKind.FAMILY, "3+4", "4+3", False),
    ],
)
def test_votes_take_answers_for_equal_as_grading_does(kind, one, other, same):
    """Without the reference, which is another one here."""
    problem = Problem("p", "", "?", "99", kind, family="countdown3" if kind is AnswerKind.FAMILY else "")
    with Grader() as grader:
        ballot = Ballot(problem, Booth(grader))
        assert ballot.same(one, other) is same and ballot.same(other, one) is same and ballot.same(one, one)


def test_no_answer_does_not_vote():
    problem = Problem("p", "", "Use each of 1, 2 and 3 once to make 6.", None, AnswerKind.FAMILY, family="countdown3")
    with Grader() as grader:
        ballot = Ballot(problem, Booth(grader))
        assert [ballot.read(text) for text in ("", "Final Answer: not found", "Answer: 1+2+3")] == [None, None, "1+2+3"]
        assert not ballot.right("Final Answer: not found") and ballot.right("Answer: 1+2+3")
