"""A run: stages that stand are not run again, a change runs what depends on it, and bad input is said in one line."""

import hashlib
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from rich.console import Console

from curate.config import load_config
from curate.progress import Bars
from curate.run import Arguments, main, run
from curate.sources import PAPER
from curate.stages.executor import local
from curate.stages.pipeline import ORDER
from curate.stages.stage import Context, Output, Stage
from curate.table_io import DATA
from engine.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "s1-nano"

QUESTIONS = [
    {"question": "Ann has 3 apples and buys 4. How many has she?", "answer": "3+4=7 #### 7"},
    {"question": "Ann has 3 apples and buys 4. How many has she?", "answer": "again #### 7"},
    {"question": "A bus holds 40 people. How many do 3 buses hold?", "answer": "#### 120"},
    {"question": "See p12. How many pages follow up to p80?", "answer": "#### 68"},
    "{broken\n",
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row for row in rows))
    return str(path)


@pytest.fixture
def tree(tmp_path):
    """A configuration without models."""
    return {
        "run": str(tmp_path / "run"),
        "collect": {"sources": [{"adapter": "GSM8K", "path": write(tmp_path / "rows.jsonl", QUESTIONS)}]},
        "decontaminate": {
            "against": [
                {"name": "test", "path": write(tmp_path / "test.jsonl", [{"question": QUESTIONS[2]["question"]}])}
            ]
        },
    }


def config_of(tree, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_config(path)


def launch(tree, tmp_path, *names, **settings):
    """Runs it; returns what was said, and by stage whether it ran."""
    console = Console(record=True, width=200, file=io.StringIO())
    run(config_of(tree, tmp_path), Arguments(Path(), tuple(names), **settings), console)
    lines = [line.split(maxsplit=1) for line in console.export_text().splitlines() if line.strip()]
    return {name: rest != "unchanged" for name, rest in lines if name in ORDER}


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
        and path.name not in ("seconds.json",)
        and "report" not in path.parts
        and "responses" not in path.name
    }


def test_every_row_has_a_decision_and_nothing_is_deleted(tree, tmp_path):
    launch(tree, tmp_path)
    ledger = pl.read_parquet(tmp_path / "run" / "report" / "ledger.parquet")
    ends = {row["row_id"]: (row["stage"], row["rule"]) for row in ledger.to_dicts()}
    assert ends == {
        "GSM8K/1": ("quality", "kept"),
        "GSM8K/2": ("dedupe", "exact_duplicate"),
        "GSM8K/3": ("decontaminate", "scored:equal"),
        "GSM8K/4": ("quality", "page_reference"),
        "GSM8K/5": ("collect", "malformed"),
    }
    assert pl.read_parquet(tmp_path / "run" / "collect" / "questions.parquet").height == 4


def test_a_stage_runs_again_only_when_its_key_changed(tree, tmp_path):
    assert launch(tree, tmp_path) == dict.fromkeys(("collect", "dedupe", "decontaminate", "quality"), True)
    before = digests(tree["run"])
    assert launch(tree, tmp_path) == dict.fromkeys(("collect", "dedupe", "decontaminate", "quality"), False)
    tree["quality"] = {"page_reference": "s1"}
    assert launch(tree, tmp_path) == {"collect": False, "dedupe": False, "decontaminate": False, "quality": True}
    tree["dedupe"] = {"jaccard": 0.9}  # the same decisions, so nothing behind it changes
    assert launch(tree, tmp_path) == {"collect": False, "dedupe": True, "decontaminate": False, "quality": False}
    write(tmp_path / "test.jsonl", [{"question": "Another?"}])
    assert launch(tree, tmp_path) == {"collect": False, "dedupe": False, "decontaminate": True, "quality": True}
    assert launch(tree, tmp_path, force=True)["collect"]
    del tree["quality"], tree["dedupe"]
    write(tmp_path / "test.jsonl", [{"question": QUESTIONS[2]["question"]}])
    launch(tree, tmp_path)
    assert digests(tree["run"]) == before


def test_a_damaged_result_is_made_again(tree, tmp_path):
    launch(tree, tmp_path)
    before = digests(tree["run"])
    (tmp_path / "run" / "dedupe" / "decisions.parquet").unlink()
    (tmp_path / "run" / "decontaminate" / "matches.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "run" / "quality" / "manifest.json").write_text("{torn")
    assert launch(tree, tmp_path) == {"collect": False, "dedupe": True, "decontaminate": True, "quality": True}
    assert digests(tree["run"]) == before


def test_stages_alone(tree, tmp_path):
    with pytest.raises(InputError, match="dedupe reads what stage collect writes; run `--stage collect` first"):
        launch(tree, tmp_path, "dedupe")
    assert launch(tree, tmp_path, "collect") == {"collect": True}
    assert launch(tree, tmp_path, "dedupe") == {"dedupe": True}
    assert not (tmp_path / "run" / "quality").exists()
    with pytest.raises(InputError, match="--stage polish: there is no such stage"):
        launch(tree, tmp_path, "polish")
    with pytest.raises(InputError, match="--stage trace: this configuration ends before it"):
        launch(tree, tmp_path, "trace")
    launch(tree, tmp_path, "report")
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_a_stage_that_fails_leaves_what_was_there(tmp_path, tree):
    config = config_of(tree, tmp_path)

    def fails(context: Context) -> Output:
        raise RuntimeError("in the middle")

    def bad_file(context: Context) -> Output:
        return Output({"t": pl.DataFrame({"a": [1]})}, {}, {"no/such/folder.bin": b""})

    def works(context: Context) -> Output:
        return Output({"t": pl.DataFrame({"a": [1]})}, {"rows": 1})

    context = Context(config, local, Bars(Console(quiet=True)))
    good, bad = Stage("probe", 1, (), lambda c: {}), Stage("probe", 2, (), lambda c: {})
    good.write(config, works(context))
    before = digests(tree["run"])
    for work in (fails, bad_file):
        with pytest.raises((RuntimeError, OSError)):
            bad.write(config, work(context))
        assert digests(tree["run"]) == before and not bad.current(config)
    assert good.current(config)
    # A full disk, for which a file size limit stands: polars raises an error of its own.
    large = Output({"t": pl.DataFrame({"a": range(100_000)})}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"probe/t\.parquet cannot be written \(.*too large.*make room and run"):
            bad.write(config, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(tree["run"]) == before and good.current(config)
    (Path(tree["run"]) / "probe" / "t.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"t\.parquet cannot be read \(.*run `--stage probe` again"):
        context.table("probe", "t")
    (Path(tree["run"]) / "probe" / "manifest.json").write_text("{}")
    assert not good.current(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selekt": {}}, r"unknown setting selekt; did you mean select\?"),
        ({"dedupe": {"jacard": 0.5}}, r"unknown setting dedupe.jacard; did you mean jaccard\?"),
        ({"dedupe": {"jaccard": "high"}}, r"dedupe.jaccard is 'high': expected `float`, got `str`"),
        ({"dedupe": {"jaccard": 1.5}}, "dedupe.jaccard is 1.5"),
        ({"dedupe": {"bands": 0}}, "dedupe.bands is 0: expected `int` >= 1"),
        ({"dedupe": {"bands": 30}}, "permutations is 128, which 30 bands do not divide"),
        ({"decontaminate": {"rule": "s2"}}, "decontaminate.rule is 's2'; known: 's1', 'scored'"),
        ({"select": {"count": 0}}, "select.count is 0: expected `int` >= 1"),
        ({"collect": {"sources": []}}, r"collect.sources is \[\]: expected `list` of length >= 1"),
        ({"collect": {"sources": [{"adapter": "GSM9K"}]}}, r"adapter is 'GSM9K'; did you mean 'GSM8K'\?"),
        ({"collect": {"sources": [{"adapter": "GSM8K", "pth": "x"}]}}, r"sources\[0\].pth; did you mean path"),
        ({"collect": {"sources": [{"adapter": "MATH"}, {"adapter": "MATH"}]}}, "two sources are called 'MATH'"),
        ({"trace": {"model": {"model": "engine:x", "max_seqs": 3}}}, "max_seqs"),
        (
            {"trace": {"model": {"model": "engine:x"}, "sampling": {"max_token": 1}}},
            "sampling.max_token; did you mean max_tokens",
        ),
        ({"format": {"tokenizer": "x"}}, "attempt needs trace, and format needs both"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(change, message, tree, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        config_of(tree | change, tmp_path)
    assert "\n" not in str(caught.value) and "config.yaml" in str(caught.value)


def test_the_command_says_one_line_and_ends_with_2(tree, tmp_path, monkeypatch, capfd):
    tree["collect"]["sources"][0]["path"] = str(tmp_path / "nowhere.jsonl")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["curate.run", str(tmp_path / "config.yaml")])
    assert main() == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and "nowhere.jsonl: no such file" in said and said.count("\n") == 1


def test_a_fault_of_the_program_is_no_bad_input(tree, tmp_path, monkeypatch):
    """Only what a person can mend is said in one line; a ValueError of our own keeps its traceback."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["curate.run", str(tmp_path / "config.yaml")])
    for error in (ValueError("a fault"), KeyError("another")):
        monkeypatch.setattr("curate.run.stages", lambda config, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            main()
    monkeypatch.setattr("curate.run.stages", lambda config: (_ for _ in ()).throw(InputError("bad input")))
    assert main() == 2


def test_files_that_cannot_be_read_as_configuration(tmp_path):
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")
    for text, message in (
        ("a: [", "not YAML"),
        ("- a", "must be a mapping"),
        ("run: a\nseed: 1\nseed: 2", "'seed' is given twice"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            load_config(tmp_path / "c.yaml")


def offline(tmp_path, **changes):
    """The offline recipe with a few rows of each source."""
    tree = yaml.safe_load((ROOT / "curate" / "recipes" / "offline_2k.yaml").read_text())
    for source in tree["collect"]["sources"]:
        source["rows"] = {"procedural/NuminaMATH": 40, "procedural/MATH": 24}.get(source["name"], 2)
        for key in ("copies", "near_copies", "leaks", "damaged", "unanswered"):
            source.pop(key, None)
            if source["rows"] >= 24:
                source[key] = 3
    tree["trace"]["model"]["model"] = f"engine:{NANO}"
    for asked in tree["attempt"]["models"]:
        asked["model"]["model"] = f"engine:{NANO}"
    tree["format"]["tokenizer"] = str(NANO)
    tree["grade"]["workers"] = 1  # each takes seconds to start
    tree["select"]["count"] = 12
    tree["decontaminate"]["against"][0]["heldout"] = 1000
    tree["run"] = str(tmp_path / "run")
    return tree | changes


def test_the_offline_pipeline_from_questions_to_a_training_file(tmp_path):
    tree = offline(tmp_path)
    assert all(launch(tree, tmp_path).values())
    folder = tmp_path / "run"
    counts = {name: json.loads((folder / name / "manifest.json").read_text())["counts"] for name in ORDER}
    assert counts["collect"]["rows"] == 40 + 24 + 14 * 2
    assert counts["dedupe"]["rules"]["exact_duplicate"] >= 4 and counts["dedupe"]["rules"]["near_duplicate"] >= 4
    assert counts["decontaminate"]["rules"]["scored:equal"] >= 3
    assert counts["trace"]["rows"] == counts["decontaminate"]["kept"]
    assert counts["quality"]["rows"] - counts["quality"]["kept"] >= 3
    assert counts["attempt"]["rows"] == 2 * counts["quality"]["kept"] == counts["grade"]["rows"]
    assert counts["difficulty"]["rules"]["ungradable"] >= 4 and counts["difficulty"]["rules"]["solved"] >= 1
    assert counts["domain"]["rows"] == counts["difficulty"]["kept"]
    assert counts["domain"]["classifiers"] == {"fallback": counts["domain"]["rows"]}
    assert counts["select"]["kept"] == counts["format"]["kept"] == 12
    lines = [json.loads(line) for line in (folder / "format" / "train.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and all(line["thinking"].strip() and line["attempt"].strip() for line in lines)
    ledger = pl.read_parquet(folder / "report" / "ledger.parquet")
    assert ledger.height == counts["collect"]["rows"] and ledger["kept"].sum() == 12
    page = (folder / "report" / "report.html").read_text()
    assert "30,660" in page and "59,029" in page and "data:image/svg+xml;base64," in page
    right = (
        pl.read_parquet(folder / "grade" / "trace_grades.parquet")
        .join(pl.read_parquet(folder / "select" / "selection.parquet"), on="qid", how="semi")["verdict"]
        .to_list()
    )
    row = "".join(f"<td class=n>{right.count(verdict)}</td>" for verdict in ("yes", "no", "ungradable"))
    assert f"<td>selected traces (s1K: 536 of 1,000 right)</td><td>teacher</td>{row}" in page
    # Again from the same store: not one call more, and every table the same to the byte.
    before = digests(folder)
    store = (folder / "responses.sqlite").read_bytes()
    launch(tree, tmp_path, force=True)
    assert digests(folder) == before and len(store) == (folder / "responses.sqlite").stat().st_size


@pytest.mark.slow
def test_two_thousand_questions_in_two_minutes(tmp_path):
    """The recipe as it is, in a process of its own; seconds of processor time, which other processes do not change."""
    tree = yaml.safe_load((ROOT / "curate" / "recipes" / "offline_2k.yaml").read_text())
    tree["run"] = str(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "curate.run", str(tmp_path / "config.yaml")], cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 120
    counts = json.loads((tmp_path / "run" / "report" / "counts.json").read_text())
    assert counts["collect"]["rows"] == 2000 and counts["select"]["kept"] == counts["format"]["kept"] == 100
    assert set(counts["collect"]["sources"]) == {f"procedural/{cls.info.name}" for cls in PAPER}
    for source, kept in counts["quality"]["sources"].items():
        assert kept > 0, source


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="S1_DATA has no gsm8k; the real files are not here")
def test_real_questions(tmp_path):
    tree = yaml.safe_load((ROOT / "curate" / "recipes" / "real_questions.yaml").read_text())
    tree["run"] = str(tmp_path / "run")
    launch(tree, tmp_path)
    counts = json.loads((tmp_path / "run" / "report" / "counts.json").read_text())
    assert counts["collect"]["rows"] == counts["collect"]["kept"] == 8736
    # One pair differs in a name only; reading passages that several questions share make none of them a duplicate.
    assert counts["dedupe"]["rules"] == {"kept": 8735, "near_duplicate": 1}
    assert counts["decontaminate"]["rules"] == {"kept": 8730, "scored:coverage": 5}
    assert counts["decontaminate"]["hits"]["s1"] == 70
