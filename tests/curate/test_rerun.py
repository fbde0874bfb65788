"""The command run again where nothing has changed, and what it says of a run that falls short."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from curate.config import Config, load_config
from curate.run import Arguments, _keep, run
from curate.stages.pipeline import ORDER
from curate.stages.shortfall import shortfall
from engine.errors import InputError
from engine.struct_file import to_struct
from tests.curate.endpoints import Endpoint

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"torch", "polars", "matplotlib", "transformers", "openai", "jinja2"}
"""Packages that take their time to import."""


def command(*words):
    """(what a run of the command says, the packages that it imports)."""
    words = [sys.executable, "-X", "importtime", "-m", "curate.run", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = done.stderr.splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return said, {name.partition(".")[0] for name in imported}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    endpoint = Endpoint(tmp_path_factory.mktemp("endpoint") / "calls.jsonl")
    yield endpoint
    endpoint.stop()


@pytest.fixture
def config(endpoint, tmp_path):
    """40 questions: 29 whose traces are cut, 9 without an answer, 2 that are left."""
    kinds = ["long"] * 29 + ["silent"] * 9 + ["plain"] * 2
    words = ["apples", "boats", "coins", "doors", "eggs", "forks", "goats", "hats"]
    rows = [
        {
            "question": f"A {kind} one: {i} {words[i % 8]} and {i * i} {words[i // 8]} make how many?",
            "answer": f"#### {i}",
        }
        for i, kind in enumerate(kinds)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"model": {"model": "cut", "base_url": endpoint.url}}
    tree = {
        "run": str(tmp_path / "run"),
        "collect": {"sources": [{"adapter": "GSM8K", "path": str(tmp_path / "rows.jsonl")}]},
        "dedupe": {"jaccard": 1.0},
        "trace": asked,
        "attempt": {"models": [asked]},
        "select": {"count": 10},
        "format": {"tokenizer": str(ROOT / "models" / "s1-nano"), "max_tokens": 40},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "config.yaml"


def test_a_rerun_says_what_is_short_and_imports_nothing_slow(config, tmp_path):
    said, _ = command(config)
    counts = json.loads((tmp_path / "run" / "report" / "counts.json").read_text())
    assert counts["select"]["asked"] == 10 and counts["select"]["kept"] == 2
    assert counts["select"]["lost"] == [
        {"stage": "quality", "rule": "unfinished", "rows": 29},
        {"stage": "quality", "rule": "no_answer", "rows": 9},
    ]
    tail = " ".join(" ".join(said).split())
    assert "warning selected 2 of 10 asked for: 29 unfinished (quality), 9 no answer (quality); raise trace" in tail
    assert "format leaves out 2 of 2 samples: 2 too long (format); raise format.max_tokens" in tail
    assert counts["format"]["lost"] == [{"stage": "format", "rule": "too_long", "rows": 2}]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again, imported = command(config)
    stages = [line.split() for line in again if not line.lstrip().startswith(("warning", "cut", "or"))]
    assert [words for words in stages if words[-1] == "unchanged"] == [
        [name, "unchanged"]
        for name in (
            *("collect", "dedupe", "decontaminate", "trace", "quality", "attempt", "grade", "difficulty", "domain"),
            *("select", "format", "report"),
        )
    ]
    assert "selected 2 of 10 asked for" in " ".join(again), "a run that was short stays short"
    assert not imported & SLOW and "curate" in imported
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path for path in before if "responses" not in path.name and before[path] != now[path]} == set()


def test_the_report_is_written_again_where_it_is_damaged_or_shows_other_things(config, tmp_path):
    tree = {name: part for name, part in yaml.safe_load(config.read_text()).items() if name in ("run", "collect")}
    page = tmp_path / "run" / "report" / "report.html"

    def written(*stages, **settings):
        config.write_text(yaml.safe_dump(tree | settings))
        console = Console(file=io.StringIO(), width=500)
        run(load_config(config), Arguments(config, stages), console)
        return re.search(r"^ *report  (\S+)", console.file.getvalue(), re.MULTILINE)[1] == str(page)

    assert written() and not written() and written("report")
    whole = page.read_bytes()
    page.write_bytes(whole[:100])
    assert written() and page.read_bytes() == whole and not written()
    assert written(report={"title": "Another"}) and b"Another" in page.read_bytes()


NUMBERS = ["1e5", "12e4567", "-.5E+3", "1_000", "0x1F", "0b1", "1:30", ".inf", "null", "yes", "2026-01-01", "+7", "-"]


def test_the_kept_configuration_loads_again_and_a_users_own_file_stays(config, tmp_path):
    tree = {name: part for name, part in yaml.safe_load(config.read_text()).items() if name in ("run", "collect")}
    kept = tmp_path / "run" / "config.yaml"
    (source,) = tree["collect"]["sources"]
    renamed = {name: f"column {name}" for name in NUMBERS}
    for title in [*NUMBERS, "\u00fc: #\n- x\0", "{a: b}"]:
        tree["collect"]["sources"] = [source | {"rename": renamed, "name": title}]
        before = to_struct(tree | {"report": {"title": title}}, Config)
        _keep(before, kept)
        assert load_config(kept) == before, title
    kept.write_bytes(b"\xff")
    tree["collect"]["sources"] = [source]
    config.write_text(yaml.safe_dump(tree))
    run(load_config(config), Arguments(config), Console(quiet=True))
    assert load_config(kept) == load_config(config)
    mine = "# a line of mine\n" + config.read_text()
    kept.write_text(mine)
    run(load_config(kept), Arguments(kept), Console(quiet=True))
    assert kept.read_text() == mine


CHECK = "def right(answer, reference, question):\n    return {}\n"


def test_what_decides_no_result_redoes_nothing_and_an_edited_grader_does(config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "own_check_3.py"
    module.write_text(CHECK.format("True"))
    tree = yaml.safe_load(config.read_text())
    rows = {"adapter": "questions", "path": str(tmp_path / "rows.jsonl"), "kind": "python:own_check_3.right"}
    tree |= {"collect": {"sources": [rows]}, "quality": {"finished": False}}

    def performed():
        config.write_text(yaml.safe_dump(tree))
        console = Console(file=io.StringIO(), width=500)
        run(load_config(config), Arguments(config), console)
        lines = [line.split(maxsplit=1) for line in console.file.getvalue().splitlines()]
        return [line[0] for line in lines if line[0] in ORDER and line[1] != "unchanged"]

    assert performed() == list(ORDER)
    for part in (tree["trace"], *tree["attempt"]["models"]):
        part["model"] |= {"concurrency": 3, "timeout_s": 50.0}
    tree["grade"] = {"workers": 2}
    assert performed() == []
    tree["trace"]["model"]["api_key_env"] = "NO_SUCH_KEY_1"  # nobody is asked
    assert performed() == []
    module.write_text(CHECK.format("answer == '1'"))
    assert performed()[0] == "grade"
    verdicts = json.loads((tmp_path / "run" / "grade" / "manifest.json").read_text())["counts"]["verdicts"]
    assert verdicts["grades"]["cut"].get("yes", 0) <= 1
    # One that the grading processes cannot import has judged nothing.
    module.write_text(f"import os\nif os.getpid() != {os.getpid()}: raise OSError('no')\n" + CHECK.format("True"))
    with pytest.raises(InputError, match=r"grade: python:own_check_3.right cannot be imported \(OSError: no\)"):
        performed()
    assert json.loads((tmp_path / "run" / "grade" / "manifest.json").read_text())["counts"]["verdicts"] == verdicts


def test_a_model_of_which_every_call_fails_is_told_with_the_reason(config):
    tree = yaml.safe_load(config.read_text())
    tree["trace"] = {"model": tree["trace"]["model"] | {"model": "strict", "max_tries": 1}}
    config.write_text(yaml.safe_dump(tree))
    said = " ".join(" ".join(command(config)[0]).split())
    assert "trace: every call failed, of strict (status 400: " in said and "prompt too long" in said
    assert "selected 0 of 10 asked for: 40 error (quality); see `error_detail`" in said and "--retry-errors" in said


def test_help_imports_nothing_slow():
    _, imported = command("--help")
    assert not imported & SLOW and "curate" in imported


def test_what_is_short_is_told_with_the_rules_that_took_most():
    lost = [{"stage": "quality", "rule": f"rule_{i}", "rows": 20 - i} for i in range(7)]
    assert shortfall("select", {"kept": 5, "asked": 5, "lost": lost}) == ""
    assert shortfall("select", {"kept": 500, "asked": None}) == ""
    assert shortfall("dedupe", {"kept": 5, "rows": 9}) == ""
    said = shortfall("select", {"kept": 1, "asked": 2000, "lost": lost})
    assert said.startswith("selected 1 of 2,000 asked for: 20 rule 0 (quality), 19 rule 1 (quality), ")
    assert re.search(r"16 rule 4 \(quality\), 29 for other reasons$", said)
    said = shortfall("select", {"kept": 1, "asked": 2, "lost": []})
    assert said == "selected 1 of 2 asked for: there are no more questions"
    assert shortfall("format", {"kept": 2, "rows": 2, "lost": []}) == ""
