"""Source adapters: the real column layouts, filters, what is graded, and rows that are no rows."""

import codecs
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from source_rows import ROWS

from curate.normalise import canonical, question_id
from curate.sources import PAPER, language, mathematics, science
from curate.sources.base import Skip
from curate.stages.collect import collect_source
from curate.table_io import DATA
from engine.errors import InputError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row for row in rows))
    return str(path)


def gathered(source):
    questions, decisions = collect_source(source, lambda rows: None)
    return questions.to_dicts(), {row["row_id"]: row for row in decisions.to_dicts()}


def test_the_papers_sources_add_up():
    assert len(PAPER) == 16
    assert sum(cls.info.paper for cls in PAPER) == 59_029
    assert set(ROWS) == set(PAPER)


@pytest.mark.parametrize("cls", ROWS, ids=lambda cls: cls.info.name)
def test_every_row_of_the_real_layout_has_a_decision(cls, tmp_path):
    source = cls(path=write(tmp_path / "rows.jsonl", ROWS[cls]))
    questions, decisions = gathered(source)
    assert len(decisions) == len(ROWS[cls])
    assert [d for d in decisions.values() if d["rule"] == "malformed"] == []
    assert questions and {q["row_id"] for q in questions} == {r for r, d in decisions.items() if d["keep"]}
    for q in questions:
        assert q["source"] == cls.info.name and q["qid"] == question_id(q["question"]) and len(q["s1_hash"]) == 16
        assert (q["answer"] is None) == (q["answer_type"] in ("none", "code")) or q["answer_type"] == "family"


@pytest.mark.parametrize(
    ("cls", "kept", "dropped"),
    [
        (mathematics.NuminaMath, 2, {"filter:subset"}),
        (science.OlympicArena, 2, {"filter:language", "filter:modality"}),
        (language.AGIEval, 2, {"filter:level"}),
        (mathematics.OlympiadBench, 2, {"filter:modality"}),
        (mathematics.AIME, 1, {"filter:year"}),
        (mathematics.TheoremQA, 2, {"filter:picture"}),
        (science.SciEval, 2, {"filter:no_answer"}),
        (science.LiveCodeBench, 1, {"filter:difficulty"}),
    ],
    ids=lambda value: value.info.name if isinstance(value, type) else "",
)
def test_filters(cls, kept, dropped, tmp_path):
    questions, decisions = gathered(cls(path=write(tmp_path / "rows.jsonl", ROWS[cls])))
    assert len(questions) == kept
    assert {d["rule"] for d in decisions.values() if not d["keep"]} == dropped


def test_numina_keeps_listed_problems_of_other_subsets(tmp_path):
    rows = write(tmp_path / "rows.jsonl", ROWS[mathematics.NuminaMath])
    also = write(tmp_path / "also.jsonl", [{"problem": "what  is 2+2?"}])
    questions, _ = gathered(mathematics.NuminaMath(path=rows, also=(also,)))
    assert [q["answer"] for q in questions] == ["-3, 3", "4", None]


@pytest.mark.parametrize(
    ("cls", "column", "value", "answer"),
    [
        (science.SciEval, "answer", ["B"], "B"),
        (science.SciEval, "answer", ["1", None, "2"], "1, 2"),
        (science.OlympicArena, "answer", [1, 2], "1, 2"),
        (mathematics.TheoremQA, "Answer", [1, 2], "[1, 2]"),  # a list is that question's answer
    ],
)
def test_lists_of_answers(tmp_path, cls, column, value, answer):
    path = write(tmp_path / "rows.jsonl", [ROWS[cls][0] | {column: value}])
    questions, _ = gathered(cls(path=path))
    assert [q["answer"] for q in questions] == [answer]


def test_gpqa_options_do_not_depend_on_the_order_of_rows_and_diamond_is_left_out(tmp_path):
    row = ROWS[science.GPQA][0]
    rows = [row | {"Record ID": f"rec{i}", "Question": f"Which gas, {i}?"} for i in range(40)]
    one, _ = gathered(science.GPQA(path=write(tmp_path / "a.jsonl", rows)))
    two, _ = gathered(science.GPQA(path=write(tmp_path / "b.jsonl", rows[::-1])))
    assert {q["question"] for q in one} == {q["question"] for q in two}
    assert {q["answer"] for q in one} == set("ABCD")
    for q in one:
        assert f"({q['answer']}) Helium" in q["question"] and q["solution"].endswith(f"Answer: {q['answer']}")
    diamond = write(tmp_path / "diamond.jsonl", [{"Record ID": "rec3"}])
    left, decisions = gathered(science.GPQA(path=str(tmp_path / "a.jsonl"), diamond=(diamond,)))
    assert len(left) == 39 and decisions["GPQA/4"]["rule"] == "filter:diamond"


def test_gpqa_text_is_in_no_evidence(tmp_path):
    row = ROWS[science.GPQA][0]
    broken = {k: v for k, v in row.items() if k != "Correct Answer"}
    _, decisions = gathered(science.GPQA(path=write(tmp_path / "a.jsonl", [row, broken, '{"Question": "Which gas\n'])))
    assert [d["rule"] for d in decisions.values()] == ["kept", "malformed", "malformed"]
    assert not any("Which gas" in d["evidence"] for d in decisions.values())


def test_olympiadbench_puts_the_context_first_and_can_forget_it_as_s1_did(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS[mathematics.OlympiadBench])
    with_context, _ = gathered(mathematics.OlympiadBench(path=path))
    without, _ = gathered(mathematics.OlympiadBench(path=path, context=False))
    assert with_context[0]["question"] == "A train runs 4 m in 2 s.\nFind its speed."
    assert without[0]["question"] == "Find its speed." and with_context[0]["cot_type"] == "science"


@pytest.mark.parametrize("cls", [language.Crossword, science.SciEval], ids=lambda cls: cls.info.name)
def test_samples_do_not_depend_on_the_order_of_rows(cls, tmp_path):
    column = "input" if cls is language.Crossword else "question"
    rows = [ROWS[cls][i % 2] | {column: f"Number {i}", "topic": f"t{i % 5}"} for i in range(60)]
    one, decisions = gathered(cls(path=write(tmp_path / "a.jsonl", rows), sample=20))
    two, _ = gathered(cls(path=write(tmp_path / "b.jsonl", rows[::-1]), sample=20))
    assert len(one) == 20 and {q["question"] for q in one} == {q["question"] for q in two}
    assert sum(d["rule"] == "filter:sample" for d in decisions.values()) == 40


def test_malformed_rows_are_decisions_and_nothing_is_lost(tmp_path):
    good = ROWS[mathematics.Math][0]
    rows = [good, "{not json\n", "[1, 2]\n", good | {"problem": None}, {"question": "?"}, "\n", good | {"problem": " "}]
    questions, decisions = gathered(mathematics.Math(path=write(tmp_path / "rows.jsonl", rows)))
    assert len(questions) == 1 and len(decisions) == 6  # the empty line is no row
    reasons = [d["evidence"] for d in decisions.values() if not d["keep"]]
    assert "not JSON" in reasons[0] and "must be an object, not list" in reasons[1]
    assert "column 'problem' is 'None'" in reasons[2] and "column 'problem' is missing" in reasons[3]


@pytest.mark.parametrize("cls", ROWS, ids=lambda cls: cls.info.name)
def test_junk_in_any_column_is_at_most_a_malformed_row(cls, tmp_path):
    good = ROWS[cls][0]
    junk = (None, 7, -0.5, True, "", " ", "x", [], [None], {}, {"a": [1]}, "\ud800", [["deep"]])
    rows = [good] + [good | {column: value} for column in good for value in junk]
    source = cls(path=write(tmp_path / "rows.jsonl", rows))
    questions, decisions = gathered(source)
    assert len(decisions) == len(rows) and decisions[f"{cls.info.name}/1"]["rule"] in ("kept", "filter:sample")
    assert all(q["question"].strip() for q in questions)


def test_wrong_columns_stop_the_source_and_rename_mends_it(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "1+1?", "worked": "2", "answer": "2"}])
    with pytest.raises(InputError, match=r"source MATH: none of its 1 rows gives a question.*'problem' is missing"):
        gathered(mathematics.Math(path=path))
    questions, _ = gathered(mathematics.Math(path=path, rename={"prompt": "problem", "worked": "solution"}))
    assert questions[0]["question"] == "1+1?"


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file"):
        gathered(mathematics.Math(path=str(tmp_path / "nowhere.jsonl")))
    (tmp_path / "rows.xlsx").write_text("a,b\n")
    with pytest.raises(InputError, match=r"unknown kind of file '\.xlsx'; give \.csv, \.json, \.jsonl, \.parquet"):
        gathered(mathematics.Math(path=str(tmp_path / "rows.xlsx")))
    (tmp_path / "rows.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        gathered(mathematics.Math(path=str(tmp_path / "rows.parquet")))
    with pytest.raises(InputError, match="give either path"):
        gathered(mathematics.Math())


def test_the_hub_is_read_through_datasets(tmp_path):
    """A folder stands in for the hub's repository: `load_dataset` takes either. Configurations and splits in turn."""
    pytest.importorskip("datasets", reason="the extra [hub] is not installed; nothing here can run without it")
    rows = [row | {"modality": "Text-only"} for row in ROWS[mathematics.OlympiadBench][:2]]
    repo = tmp_path / "repo"
    for name, _ in mathematics.OlympiadBench.info.parts:
        (repo / name).mkdir(parents=True)
        (repo / name / "train.jsonl").write_text(json.dumps(rows["physics" not in name] | {"id": name}) + "\n")
    parts = "\n".join(
        f"- config_name: {name}\n  data_files: {name}/train.jsonl" for name, _ in mathematics.OlympiadBench.info.parts
    )
    (repo / "README.md").write_text(f"---\nconfigs:\n{parts}\n---\n")

    class Local(mathematics.OlympiadBench, frozen=True, tag="Local"):
        info = replace(mathematics.OlympiadBench.info, repo=str(repo))

    questions, decisions = gathered(Local(hub=True))
    assert len(questions) == 4 and all(d["keep"] for d in decisions.values())
    physics, proof = questions[1], questions[2]
    assert physics["question"].startswith("A train runs") and physics["answer"] == "2"
    assert proof["question"] == "Prove it." and proof["answer_type"] == "none"
    assert physics["revision"] == "hub" and len(gathered(Local(hub=True, limit=3))[0]) == 3


def test_progress_knows_how_many_rows_there_are(tmp_path):
    rows = ROWS[mathematics.Math] * 3
    path = write(tmp_path / "rows.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    both = mathematics.Math(path=(path, str(tmp_path / "rows.parquet")))
    assert both.expected() == len(list(both.read())) == 2 * len(rows)
    assert mathematics.Math(path=path, limit=2).expected() == 2 and mathematics.Math(hub=True).expected() is None
    (tmp_path / "rows.parquet").write_text("no parquet")
    assert both.expected() == len(rows), "what cannot be read is for reading to say"


def test_parquet_and_jsonl_give_the_same_questions_with_a_byte_order_mark_or_without(tmp_path):
    rows = ROWS[mathematics.Math]
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    plain = write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "marked.jsonl").write_bytes(codecs.BOM_UTF8 + Path(plain).read_bytes())
    paths = (str(tmp_path / "rows.parquet"), plain, str(tmp_path / "marked.jsonl"))
    found = [[q | {"revision": ""} for q in gathered(mathematics.Math(path=path))[0]] for path in paths]
    assert found[0] == found[1] == found[2] and len(found[0]) == len(rows)


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="S1_DATA has no gsm8k; the real files are not here")
def test_real_gsm8k():
    questions, decisions = gathered(mathematics.GSM8K(path="$S1_DATA/gsm8k/train.jsonl"))
    assert len(questions) == len(decisions) == 7473
    assert all(q["answer_type"] == "number" and "<<" not in q["solution"] for q in questions)
    assert questions[0]["answer"] == "72"


@pytest.mark.skipif(not (DATA / "agieval").is_dir(), reason="S1_DATA has no agieval; the real files are not here")
@pytest.mark.parametrize(("name", "rows"), [("aqua-rat", 254), ("lsat-ar", 230), ("lsat-lr", 510), ("lsat-rc", 269)])
def test_real_agieval(name, rows):
    questions, decisions = gathered(language.AGIEval(path=f"$S1_DATA/agieval/{name}.jsonl"))
    assert len(questions) == len(decisions) == rows
    for q in questions:
        assert q["answer_type"] == "choice" and f"({q['answer']}) " in q["question"]
        assert q["question"].count("\n(A) ") == 1


def test_skip_says_what_it_saw():
    row = ROWS[mathematics.AIME][1]
    assert mathematics.AIME().draft(row) == Skip("year", "2022")
    assert not isinstance(mathematics.AIME(last_year=2022).draft(row), Skip)


def test_signs_and_powers_stay_in_the_canonical_form():
    assert canonical("  Find\tX+1 ") == "find x+1"
    assert question_id("x+1") != question_id("x-1") and question_id("A  b") == question_id("a b")
