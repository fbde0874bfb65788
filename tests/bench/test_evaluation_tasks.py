"""Tasks from files with the columns of the real ones, prompts, and answers taken out of responses."""

import codecs
import hashlib
import json
from pathlib import Path

import pytest
from evaluation_data import write_gpqa

from bench.evaluation import files
from bench.evaluation.extraction import extract_as_s1
from bench.evaluation.grade import by_phase
from bench.evaluation.prompts import user_message
from bench.evaluation.tasks import Problem, TaskSpec, load
from curate.grading import AnswerKind, Grader
from engine import InputError

HAS_DATA = (files.data_folder() / "gsm8k" / "test.jsonl").is_file()
needs_data = pytest.mark.skipif(not HAS_DATA, reason="the question files are not there; set S1_DATA")


def lines(path: Path, rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


AIME_LAYOUTS = {
    "qwen": lambda i: {"id": i, "problem": f"P{i}?", "solution": "S", "answer": f"{i:03d}", "url": "u", "question": ""},
    "evalchemy": lambda i: {"id": i, "problem": f"P{i}?", "reference_solution": "S", "expected_answer": str(i)},
    "hub": lambda i: {"id": i, "problem": f"P{i}?", "solution": "S", "answer": i, "url": "u", "year": 2024},
}


@pytest.mark.parametrize("layout", AIME_LAYOUTS)
@pytest.mark.parametrize("name", ["aime24", "aime25"])
def test_aime_layouts(tmp_path, layout, name):
    digest = lines(tmp_path / "a.jsonl", [AIME_LAYOUTS[layout](i) for i in range(30)])
    task = load(TaskSpec(name=name, path=str(tmp_path / "a.jsonl"), sha256=digest))
    assert [p.reference for p in task.problems] == [str(i) for i in range(30)]  # 007 is 7
    assert task.problems[7].question == "P7?" and task.problems[7].kind is AnswerKind.NUMBER
    assert task.sha256 == digest


def test_math500_and_parquet(tmp_path):
    rows = [
        {
            "problem": f"Find ${i}$.",
            "solution": "s",
            "answer": f"\\frac{{{i}}}{{7}}",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/algebra/{i}.json",
        }
        for i in range(500)
    ]
    digest = lines(tmp_path / "m.jsonl", rows)
    task = load(TaskSpec(name="math500", path=str(tmp_path / "m.jsonl"), sha256=digest, count=20))
    assert len(task.problems) == 20 and task.problems[0].group == "Algebra"
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "m.parquet")
    digest = hashlib.sha256((tmp_path / "m.parquet").read_bytes()).hexdigest()
    same = load(TaskSpec(name="math500", path=str(tmp_path / "m.parquet"), sha256=digest, count=20))
    assert same.problems == task.problems
    more = load(TaskSpec(name="math500", path=str(tmp_path / "m.parquet"), sha256=digest, count=40))
    assert set(task.problems) <= set(more.problems)


def test_gpqa_options_are_shuffled_per_question_and_kept(tmp_path):
    digest = write_gpqa(tmp_path / "g.csv")
    spec = {"name": "gpqa_diamond", "path": str(tmp_path / "g.csv"), "sha256": digest}
    task = load(TaskSpec(**spec))
    assert task.private and len(task.problems) == 198
    letters = [p.reference for p in task.problems]
    assert all(30 < letters.count(letter) < 70 for letter in "ABCD")
    for problem in task.problems:
        assert problem.options["ABCD".index(problem.reference)].startswith("right")
        assert sorted(problem.permutation) == [0, 1, 2, 3]
        assert problem.permutation.index(0) == "ABCD".index(problem.reference)
    assert load(TaskSpec(**spec)) == task
    assert [p.permutation for p in load(TaskSpec(**spec, option_seed=1)).problems] != [
        p.permutation for p in task.problems
    ]
    few = load(TaskSpec(**spec, count=5))
    assert set(few.problems) <= set(task.problems)  # an order does not depend on what else is loaded


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_neither_a_byte_order_mark_nor_a_line_separator_in_a_text_breaks_a_row(tmp_path, name):
    rows = [{"problem": f"P{i}\u2028and\u0085on?", "answer": i} for i in range(30)]
    text = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(text) if name == "a.jsonl" else f"[{','.join(text)}]"
    (tmp_path / name).write_text("\ufeff" + text)
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    task = load(TaskSpec(name="aime24", path=str(tmp_path / name), sha256=digest))
    assert [p.question for p in task.problems] == [row["problem"] for row in rows]


def test_the_first_column_of_a_csv_has_no_byte_order_mark(tmp_path):
    write_gpqa(tmp_path / "g.csv")
    (tmp_path / "g.csv").write_bytes(codecs.BOM_UTF8 + (tmp_path / "g.csv").read_bytes())
    digest = hashlib.sha256((tmp_path / "g.csv").read_bytes()).hexdigest()
    task = load(TaskSpec(name="gpqa_diamond", path=str(tmp_path / "g.csv"), sha256=digest))
    assert task.problems[0].question.startswith("Question 0")


def test_a_wrong_file_is_refused_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    digest = lines(path, [AIME_LAYOUTS["qwen"](i) for i in range(30)])
    with pytest.raises(InputError, match=f"aime24.*SHA-256 {digest}.*sha256: {digest}"):
        load(TaskSpec(name="aime24", path=str(path)))
    with pytest.raises(InputError, match="the grid says 00"):
        load(TaskSpec(name="aime24", path=str(path), sha256="00"))
    with pytest.raises(InputError, match="has 30 rows and the task has 500"):
        load(TaskSpec(name="math500", path=str(path), sha256=digest))
    with pytest.raises(InputError, match="count is 31"):
        load(TaskSpec(name="aime24", path=str(path), sha256=digest, count=31))
    with pytest.raises(InputError, match="nowhere"):
        load(TaskSpec(name="aime24", path="nowhere"))
    with pytest.raises(InputError, match="no file; give path"):
        load(TaskSpec(name="aime24"))
    digest = lines(path, [{"problem": "p", "answer": "1000"}] * 30)
    with pytest.raises(InputError, match=r"row 1: answer '1000'"):
        load(TaskSpec(name="aime24", path=str(path), sha256=digest))
    digest = lines(path, [{"question": "p"}] * 30)
    with pytest.raises(InputError, match="no answer or expected_answer"):
        load(TaskSpec(name="aime24", path=str(path), sha256=digest))


def test_missing_data_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("S1_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"task gsm8k: .*gsm8k/test\.jsonl does not exist; set S1_DATA"):
        load(TaskSpec(name="gsm8k"))


def test_a_hub_file_comes_from_the_hubs_cache(tmp_path, monkeypatch):
    """The cache's real layout, offline: what a machine without a network has after one download."""
    repository = tmp_path / "datasets--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    snapshot = repository / "snapshots" / "abc123" / "data"
    snapshot.mkdir(parents=True)
    digest = lines(snapshot / "a.jsonl", [AIME_LAYOUTS["hub"](i) for i in range(30)])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    task = load(TaskSpec(name="aime24", path="hub:owner/name/data/a.jsonl", sha256=digest))
    assert len(task.problems) == 30
    with pytest.raises(InputError, match=r"task aime24: hub:owner/other/a\.jsonl cannot be fetched"):
        load(TaskSpec(name="aime24", path="hub:owner/other/a.jsonl"))


@needs_data
def test_the_real_files():
    gsm8k, aqua = load(TaskSpec(name="gsm8k")), load(TaskSpec(name="aqua"))
    assert (len(gsm8k.problems), gsm8k.problems[0].reference) == (1319, "18")
    assert (len(aqua.problems), aqua.problems[0].reference, aqua.problems[0].options[0]) == (254, "A", "5(√3 + 1)")
    assert user_message(aqua.problems[1], "s1").endswith("\n\nA) $61\nB) $65\nC) $67.40\nD) $70\nE) $78.20")


def test_families_are_held_out_and_seeded():
    task = load(TaskSpec(name="s1_nano", count=16, seed=7))
    assert len({p.group for p in task.problems}) == 8 and task.problems[0].reference is None
    assert load(TaskSpec(name="s1_nano", count=16, seed=7)).sha256 == task.sha256
    assert load(TaskSpec(name="s1_nano", count=16, seed=8)).sha256 != task.sha256
    chains = load(TaskSpec(name="s1_nano", count=4, families=("chains",)))
    assert {p.group for p in chains.problems} == {"chains"}
    whole = load(TaskSpec(name="s1_nano", seed=7))
    assert len({p.question for p in whole.problems}) == len(whole.problems) == 1000
    assert "sequences" in whole.note and task.note == ""
    with pytest.raises(InputError, match=r"task s1_nano: weekdays: .* lower the count or add families"):
        load(TaskSpec(name="s1_nano", families=("weekdays",)))


def test_templates():
    plain = Problem("1", "", "What is 2+2?", "4", AnswerKind.NUMBER)
    choice = Problem("2", "", "Which?", "B", AnswerKind.CHOICE, ("x", "y", "z", "w"))
    assert user_message(plain, "s1") == "What is 2+2?"
    assert user_message(choice, "s1") == "Which?\n\nA) x\nB) y\nC) z\nD) w"
    assert user_message(plain, "s1", "Think for up to 64 tokens.") == "What is 2+2?\n\nThink for up to 64 tokens."
    assert user_message(plain, "lm_eval") == "Question: What is 2+2?\nAnswer:"
    assert "\\boxed{}" in user_message(plain, "boxed") and "letter" in user_message(choice, "boxed")
    assert "form Answer: $LETTER" in user_message(choice, "simple_evals")
    assert "form Answer: $ANSWER" in user_message(plain, "simple_evals")
    assert "\\boxed" in user_message(plain, "evalchemy")


NUMBER, CHOICE, LATEX = AnswerKind.NUMBER, AnswerKind.CHOICE, AnswerKind.LATEX


@pytest.mark.parametrize(
    ("answer", "reasoning", "kind", "mode", "text", "rule"),
    [
        ("so \\boxed{3} or rather \\boxed{\\frac{1}{2}}", "", LATEX, "answer", "\\frac{1}{2}", "answer.boxed"),
        ("Answer: 3\nno,\nFinal Answer: 4", "", NUMBER, "answer", "4", "answer.answer_line"),
        ("Final Answer: 46", "", NUMBER, "answer", "46", "answer.answer_line"),
        ("we get 12 and then 13, which is all there is", "", NUMBER, "answer", "13", "answer.last_number"),
        ("we get 12 and then 13, which is\nall there is", "", NUMBER, "strict", None, "no_answer"),
        ("", "the sum is 12 and so\nwe are done with 13", NUMBER, "answer", None, "no_answer"),
        ("", "the sum is 12 and so\nwe are done with 13", NUMBER, "lenient", "13", "reasoning.last_number"),
        ("", "\\boxed{5} is it", NUMBER, "lenient", "5", "reasoning.boxed"),
        ("5", "\\boxed{6}", NUMBER, "lenient", "5", "answer.whole"),
        ("The answer is: (B)", "", CHOICE, "answer", "B", "answer.answer_line"),
        ("Answer: yellow stone", "", CHOICE, "answer", "C", "answer.answer_line/option_text"),
        ("Answer: yellow", "", CHOICE, "answer", None, "no_answer"),
        ("I believe that it has to be D for these reasons", "", CHOICE, "answer", "D", "answer.last_letter"),
        ("b", "", CHOICE, "answer", "B", "answer.whole"),
        ("", "", CHOICE, "lenient", None, "no_answer"),
    ],
)
def test_extraction_by_phase_names_its_rule(answer, reasoning, kind, mode, text, rule):
    row = {"answer": answer, "reasoning": reasoning, "error": None, "choice": None, "left_thinking": True}
    options = ("red stone", "blue stone", "yellow stone", "no stone") if kind is CHOICE else ()
    problem = Problem("1", "", "Which?", {NUMBER: "1", LATEX: "x", CHOICE: "A"}[kind], kind, options)
    with Grader(strict=mode == "strict") as grader:
        (found,) = by_phase([row], [problem], mode, grader)
    assert (found.extracted, found.rule.removesuffix("/choice").rsplit("/", kind is not CHOICE)[0]) == (text, rule)


@pytest.mark.parametrize(
    ("answer", "kind", "text", "rule"),
    [
        ("\\boxed{3} \\boxed{4}", NUMBER, "4", "s1.boxed"),
        ("$\\boxed 7$ done", NUMBER, "7", "s1.boxed"),
        ("\\boxed{3", NUMBER, None, "s1.boxed"),
        ("Answer: 3\nno, Answer: 4", NUMBER, "3\nno, Answer: 4", "s1.first_answer"),
        ("Final answer: c", CHOICE, "C", "s1.first_answer"),
        ("I do not know", CHOICE, "A", "s1.default_a"),
        ("", CHOICE, "A", "s1.default_a"),
    ],
)
def test_the_originals_grader_keeps_its_faults(answer, kind, text, rule):
    found = extract_as_s1(answer, kind)
    assert (found.text, found.rule) == (text, rule)
