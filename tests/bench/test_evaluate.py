"""The command `python -m bench.evaluate`: from flags or a grid to tables, figures and a page, on s1-nano."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from bench import demo, evaluate
from bench.evaluation import accuracy as report
from bench.evaluation import browse, compare, grade, grid, methods, outcomes, plot, run, tables
from bench.evaluation.log import read_rows
from bench.evaluation.publish import BEGIN, END
from bench.record import read
from bench.statistics import discordant, sign_test, wilson
from curate.families import check
from engine import SamplingParams
from engine.whole_file import write_whole

MODEL = str(Path(__file__).parents[2] / "models" / "s1-nano")


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (645, 1000), (1, 3)])
def test_wilson_is_scipys(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("right", "count"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(right, count):
    with pytest.raises(ValueError, match="count"):
        wilson(right, count)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (12, 3), (3, 12), (40, 41)])
def test_sign_test_is_scipys(gained, lost):
    changes = gained + lost
    expected = binomtest(lost, changes, alternative="greater").pvalue if changes else 1.0
    assert sign_test(gained, lost) == pytest.approx(expected)


def test_discordant_pairs():
    assert discordant([True, True, False, False], [True, False, True, True]) == (2, 1)
    with pytest.raises(ValueError):
        discordant([True], [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run: budgets, Waits, samples in parallel, rejection."""
    folder = tmp_path_factory.mktemp("run")
    file = folder.parent / "grid.yaml"
    file.write_text(f"""
name: <b>tiny</b>
model: {MODEL}
tasks: [{{name: s1_nano, count: 24, seed: 3}}]
methods:
  - {{method: budget, budgets: [16, 32, 64]}}
  - {{method: extensions, extensions: [0, 2], budget: 512}}
  - {{method: parallel, samples: 4, budgets: [32]}}
  - {{method: rejection, limits: [40], tries: 3}}
answer_tokens: 48
engine: {{device: cpu, dtype: float32, kv_cache_tokens: 32768}}
""")
    document = folder.parent / "page.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    figure, samples, records = (folder.parent / name for name in ("figure.png", "samples.jsonl", "records.jsonl"))
    arguments = [
        str(file),
        "--out",
        str(folder),
        "--figure",
        str(figure),
        "--samples",
        str(samples),
        "--results",
        str(records),
        "--write",
        str(document),
    ]
    assert evaluate.main(arguments) == 0
    return folder


def test_one_command_leaves_everything(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {
        f"figures/s1_nano-{name}{end}"
        for name in ("accuracy", "parallel", "rejection")
        for end in (".png", ".svg", "-dark.svg", ".json")
    }
    assert names == figures | {"run.json", "samples.jsonl", "grades.jsonl", "report.json", "report.md", "samples.html"}
    assert (folder.parent / "figure.png").read_bytes() == (folder / "figures/s1_nano-accuracy.png").read_bytes()
    about = json.loads((folder / "run.json").read_text())["about"]
    assert about["versions"]["torch"] and about["device"] and about["commit"]


def test_the_report_counts_what_the_log_holds(folder):
    found = json.loads((folder / "report.json").read_text())
    rows = [row for row in read_rows(folder) if not row["condition"].startswith("trace ")]
    (task,) = found["tasks"]
    assert found["missing_samples"] == 0 and task["problems"] == 24
    problems = {p.id: p for p in grade.load_tasks(folder)["s1_nano"].problems}
    for condition in task["conditions"]:
        own = [row for row in rows if row["condition"] == condition["condition"]]
        assert len(own) == condition["problems"] * condition["samples"]
        right = [check(problems[r["problem"]].family, problems[r["problem"]].question, r["answer"]) for r in own]
        assert condition["accuracy"] == pytest.approx(sum(right) / len(right), abs=1e-6)
        thinking = sum(r["thinking_tokens"] for r in own) / len(own)
        assert condition["thinking_tokens"] == pytest.approx(thinking, abs=1e-6)
        assert condition["control"] == 1.0 and condition["overshoot"] == 0
        assert condition["forced_ends"] == sum(r["stop_reason"] in ("budget", "max_tokens") for r in own)
        assert sum(condition["rules"].values()) == len(own)
        groups = condition["groups"]
        assert sum(groups.values()) / len(groups) == pytest.approx(condition["accuracy"], abs=1e-6)
    by_label = {condition["condition"]: condition for condition in task["conditions"]}
    assert by_label["budget 64"]["change"]["of"] == "budget 32"
    difference = by_label["budget 64"]["accuracy"] - by_label["budget 32"]["accuracy"]
    assert by_label["budget 64"]["change"]["difference"] == pytest.approx(difference, abs=1e-6)
    one, *_, four = by_label["4 samples, budget 32"]["at_k"]
    assert one["majority"] == pytest.approx(one["pass"]) and four["pass"] >= one["pass"]
    assert four["unique_tokens"] == pytest.approx(4 * one["unique_tokens"], rel=1e-5)
    for entry in (one, four):  # budget 32 without a temperature is in the grid
        more = entry["majority"] - by_label["budget 32"]["accuracy"]
        assert entry["gain_over_greedy"]["difference"] == pytest.approx(more, abs=2e-6)
        assert entry["gain"]["difference"] == pytest.approx(entry["majority"] - one["pass"], abs=2e-6)
    assert one["path_tokens"] <= four["path_tokens"] <= four["unique_tokens"]
    assert {m["method"] for m in task["methods"]} == {"budget", "extensions Wait", "budget forcing"}


def test_tables_and_records_say_the_same(folder):
    text = (folder / "report.md").read_text()
    found = json.loads((folder / "report.json").read_text())
    for row in found["tasks"][0]["conditions"]:
        assert f"| {row['condition']} | {row['accuracy']:.1%} |" in text
    document = (folder.parent / "page.md").read_text()
    assert document.startswith("before\n") and document.endswith("after\n") and "old" not in document
    assert "| budget 64 |" in document and "24 problems of s1_nano" in document
    assert "points per doubling" in document and "| p (fell) |" in document
    records = read(folder.parent / "records.jsonl")
    assert [record.case["condition"] for record in records] == [r["condition"] for r in found["tasks"][0]["conditions"]]
    assert all(record.figures["control"] == 1.0 for record in records)
    four = next(record.figures for record in records if record.case["samples"] == 4)
    assert four["majority_low95"] <= four["majority"] <= four["majority_high95"] and four["gain"] <= four["gain_high95"]
    samples = [json.loads(line) for line in (folder.parent / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 24 * 10 and {"prompt", "reasoning", "answer", "right"} <= samples[0].keys()


def test_figures_show_the_report_and_are_made_alike(folder, tmp_path):
    found = json.loads((folder / "report.json").read_text())
    data = json.loads((folder / "figures/s1_nano-accuracy.json").read_text())
    (panel,) = data["panels"]
    curves = {curve["name"]: curve for curve in panel["curves"]}
    rows = [row for row in found["tasks"][0]["conditions"] if row["series"] == "budget"]
    assert curves["budget"]["accuracy"] == [row["accuracy"] for row in rows]
    assert curves["budget"]["low"] == [row["interval"]["low"] for row in rows]
    assert curves["budget"]["labels"] == ["16", "32", "64"] and curves["extensions Wait"]["labels"] == ["0x", "2x"]
    assert (folder / "figures/s1_nano-accuracy.png").read_bytes().startswith(b"\x89PNG")
    for file in plot.draw(found, tmp_path):
        assert file.read_bytes() == (folder / "figures" / file.name).read_bytes(), file.name
    parallel = json.loads((folder / "figures/s1_nano-parallel.json").read_text())
    unique, path = (panel["curves"][0] for panel in parallel["panels"])
    assert unique["accuracy"] == path["accuracy"] and unique["tokens"][-1] > path["tokens"][-1]
    assert [panel["x"].split(" of ")[1] for panel in parallel["panels"]] == ["all k samples", "the longest"]


class Page(HTMLParser):
    """Text, marked text and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.marked, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag == "mark"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.marked.append(data)


def test_the_page_marks_forced_tokens_and_escapes_everything(folder):
    text = (folder / "samples.html").read_text()
    page = Page(text)
    assert page.tags.count("details") == 24 * 10 and page.tags.count("script") == 1 and "b" not in page.tags
    assert "&lt;b&gt;tiny&lt;/b&gt;" in text and "&lt;|im_start|&gt;answer" in text
    assert "Wait" in page.marked and any("Final Answer:" in piece for piece in page.marked)
    assert not re.search(r"(src|href)=", text)
    pieces = browse.marked([0, 1, 2, 3], [1], lambda ids: "".join("<script>"[i] for i in ids))
    assert list(pieces) == [("<", False), ("s", True), ("cr", False)]


def test_a_page_escapes_hostile_text(folder, tmp_path):
    for name in ("run.json", "samples.jsonl", "grades.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    for row in rows:  # as from a server that gives no token ids
        row |= {"token_ids": [], "forced": [], "reasoning": "</pre><script>alert(1)</script>", "answer": "<img src=x>"}
    write_whole(tmp_path / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    text = browse.write_page(tmp_path).read_text()
    assert "<script>alert" not in text and "<img" not in text and "&lt;img src=x&gt;" in text


def test_status_grade_and_report_need_no_model(folder, capsys):
    assert evaluate.main(["status", str(folder)]) == 0
    status = capsys.readouterr().out
    assert re.search(r"budget 16 +24 of 24", status) and re.search(r"all +240 of 240", status)
    before = (folder / "report.json").read_bytes()
    assert evaluate.main(["grade", str(folder)]) == 0 and evaluate.main(["report", str(folder)]) == 0
    assert (folder / "report.json").read_bytes() == before
    assert evaluate.main(["grade", str(folder), "--mode", "strict"]) == 0
    assert evaluate.main(["report", str(folder), "--mode", "strict"]) == 0
    assert "in the mode `strict`" in (folder / "report-strict.md").read_text()
    capsys.readouterr()
    assert evaluate.main(["grade", str(folder), "--grader", "s1-grader"]) == 2
    assert "no reference answers" in capsys.readouterr().err
    for name in ("grades-strict.jsonl", "report-strict.md", "report-strict.json"):
        (folder / name).unlink()


def test_an_unfinished_run_is_reported_as_such(folder, tmp_path, capsys):
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[:90]) + lines[90][:40])
    assert evaluate.main(["report", str(tmp_path)]) == 2
    assert "grade the run first" in capsys.readouterr().err
    assert evaluate.main(["grade", str(tmp_path)]) == 0 and evaluate.main(["report", str(tmp_path)]) == 0
    assert re.search(r"Incomplete: \d+ samples", capsys.readouterr().out)
    assert evaluate.main(["status", str(tmp_path)]) == 0
    assert "left at that rate" in capsys.readouterr().out
    # Beside the whole run, on the problems that both have: the same samples, so the same accuracy.
    (row,) = (line.split(" | ") for line in compare.text(folder, tmp_path).splitlines() if "rejection" in line)
    before, after = row[3].split(" to ")
    assert before == after and row[2].endswith(" of 24") and int(row[2].partition(" ")[0]) < 24


def test_intervals_keep_their_width_where_every_problem_came_out_alike():
    """Resampling zeros gives zero to zero; nothing is that certain of ten problems."""
    graded = grade.Graded(False, "no_answer", None, None)

    def cell(limit):
        params = SamplingParams(thinking_token_budget=limit)
        rows = [[outcomes.Outcome(graded, limit, 9, 9, 1, True, "budget", None) for _ in range(4)] for _ in range(10)]
        names = tuple(map(str, range(10)))
        condition = methods.Condition(f"budget {limit}", "budget", params, limit, samples=4)
        return outcomes.Cell("gsm8k", condition, names, ("",) * 10, tuple(map(tuple, rows)))

    tokens = {"gsm8k": outcomes.Tokens(1, 1)}
    results = outcomes.Results("m", (cell(16), cell(64)), tokens, 0, {"gsm8k": ""})
    (task,) = report.report(results, "s1-engine", "answer")["tasks"]
    low, high = (pytest.approx(value, abs=1e-6) for value in wilson(0, 10))
    first = task["conditions"][0]
    assert first["interval"] == {"kind": "wilson", "low": low, "high": high}
    assert first["at_k"][-1]["majority_interval"] == [low, high]
    (method,) = task["methods"]
    assert method["performance_interval"] == [low, high] and method["performance_bias"] is None
    assert method["scaling"] == 0.0 and method["scaling_interval"] is None
    assert "| budget | 2 | 100% (100%) | 0.0 (1) | 0.0 (1) |  | 0.0% | 0.0% to 27.8% |  |" in tables.markdown(
        report.report(results, "s1-engine", "answer")
    )


def test_voting_does_not_count_who_found_nothing(folder):
    results = outcomes.load(folder)
    for cell in results.cells:
        for outcome in cell.outcomes:
            assert (outcome.graded.vote is None) == (outcome.graded.extracted in (None, "not found"))


def test_the_originals_grader_is_a_labelled_column(tmp_path):
    from bench.evaluation import files

    if not (files.data_folder() / "agieval" / "aqua-rat.jsonl").is_file():
        pytest.skip("the question files are not there; set S1_DATA")
    what = grid.from_values(
        {
            "model": MODEL,
            "tasks": [{"name": "aqua", "count": 6}, {"name": "gsm8k", "count": 6}],
            "methods": [{"method": "budget", "budgets": [16]}],
            "answer_tokens": 32,
            "engine": {"device": "cpu"},
        }
    )
    run.run(what, tmp_path)
    grade.grade(tmp_path)
    grade.grade(tmp_path, "s1-grader")
    ours = report.report(outcomes.load(tmp_path), "s1-engine", "answer")
    theirs = report.report(outcomes.load(tmp_path, "s1-grader"), "s1-grader", "answer")
    assert "for comparison with its published columns only" in tables.markdown(theirs)
    aqua = theirs["tasks"][0]["conditions"][0]
    rules = {f"s1.{rule}/string" for rule in ("default_a", "boxed", "first_answer", "whole")}
    assert aqua["no_answer"] == 0 and set(aqua["rules"]) <= rules
    assert [task["task"] for task in ours["tasks"]] == ["aqua", "gsm8k"]
    assert all(0 <= c["interval"]["low"] <= c["accuracy"] for task in ours["tasks"] for c in task["conditions"])


def test_flags_make_a_grid_and_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [
        "--task",
        "s1_nano",
        "--model",
        MODEL,
        "--count",
        "8",
        "--budgets",
        "4",
        "8",
        "--waits",
        "1",
        "--results",
        str(tmp_path / "r.jsonl"),
        "--samples",
        str(tmp_path / "s.jsonl"),
        "--figure",
        str(tmp_path / "f.png"),
    ]
    assert evaluate.main(flags) == 0
    told = capsys.readouterr().out
    assert "| budget 4 |" in told and "| 1x Wait |" in told and "8 problems" in told
    assert [(r.case["budget"], r.case["waits"]) for r in read(tmp_path / "r.jsonl")] == [(4, 0), (8, 0), (1024, 1)]
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl", "s.jsonl", "f.png", "runs"}
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("s1_nano-") and (folder / "samples.html").is_file()


def test_an_adapter_is_part_of_the_model(tmp_path):
    """What runs is the model with the adapter, and the report says so; a run without it is another run."""
    adapter = tmp_path / "tuned" / "lora"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    name = "base_model.model.model.layers.0.mlp.down_proj.lora"
    pair = {f"{name}_A.weight": torch.ones(1, 384), f"{name}_B.weight": torch.ones(128, 1)}
    save_file(pair, adapter / "adapter_model.safetensors")
    file = tmp_path / "grid.yaml"
    file.write_text(f"""
model: {MODEL}
tasks: [{{name: s1_nano, count: 4, seed: 3}}]
methods: [{{method: budget, budgets: [16]}}]
answer_tokens: 8
engine: {{device: cpu, dtype: float32, kv_cache_tokens: 32768}}
""")
    plain, tuned = tmp_path / "plain", tmp_path / "adapted"
    assert evaluate.main([str(file), "--out", str(plain)]) == 0
    assert evaluate.main([str(file), "--adapter", str(adapter), "--out", str(tuned)]) == 0
    ids = [[row["token_ids"] for row in read_rows(folder)] for folder in (plain, tuned)]
    assert ids[0] != ids[1]
    assert "# s1-nano with tuned/lora: accuracy" in (tuned / "report.md").read_text()
    assert evaluate.main([str(file), "--adapter", str(adapter), "--out", str(plain)]) == 2


def test_the_demo_answers_its_questions(capsys):
    demo.main(demo.Options(model=MODEL, count=8, live=0, device="cpu"))
    told = capsys.readouterr().out
    for condition in demo.CONDITIONS:
        (row,) = (line for line in told.splitlines() if f" {condition.label} " in line)
        marks, thinking = re.search(r"[✓·]{8}", row), float(re.findall(r"\d+", row)[-1])
        assert marks is not None and 0 < thinking <= condition.limit


def test_a_flag_of_nothing_is_not_its_default(capsys):
    assert evaluate.main(["--answer-tokens", "0"]) == 2
    assert "answer_tokens is 0" in capsys.readouterr().err


def test_a_name_of_dots_stays_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = f"model: {MODEL}\nanswer_tokens: 8\nmax_tokens: 16\n"
    (tmp_path / "g.yaml").write_text(
        f'name: ".."\n{model}tasks: [{{name: s1_nano, count: 1}}]\nmethods: [{{method: budget, budgets: [4]}}]\n'
    )
    assert evaluate.main(["g.yaml"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"g.yaml", "runs"}
    assert (tmp_path / "runs" / "_" / "report.md").is_file()


def test_a_limit_beyond_the_context_is_told(tmp_path, capsys):
    values = {"model": MODEL, "tasks": [{"name": "s1_nano", "count": 1}], "answer_tokens": 8, "max_tokens": 90000}
    run.run(grid.from_values(values | {"methods": [{"method": "budget", "budgets": [4, 80000]}]}), tmp_path / "run")
    assert "context is 2,048 tokens, and 'budget 80000' may take more" in capsys.readouterr().err
