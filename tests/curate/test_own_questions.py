"""Questions of one's own: columns of any name, four kinds of files, functions that judge; as source and as task."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from bench.evaluation import grade, tasks
from bench.evaluation.prompts import question_text
from curate.columns import Columns
from curate.grading import AnswerKind, Grader, Item
from curate.grading.checker import checker
from curate.grading.letters import choose
from curate.sources.own import Own
from curate.stages.collect import collect_source
from engine.errors import InputError
from engine.rows_file import BadRow, read_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"problem": "What is 6 x 7?", "solution": "6 x 7 = 42.\n#### 42", "topic": "products"},
    {"problem": "Square $x$, add one.", "solution": r"It is $\boxed{x^2+1}$.", "topic": "algebra"},
    {"problem": 'The "capital" of France, please', "solution": "Paris", "topic": "words"},
]
EXPECTED = [("42", AnswerKind.NUMBER), ("x^2+1", AnswerKind.LATEX), ("Paris", AnswerKind.TEXT)]


def write(folder: Path, kind: str, rows=ROWS) -> str:
    file = folder / f"mine.{kind}"
    match kind:
        case "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "json":
            file.write_text("\ufeff" + json.dumps(rows, indent=1))
        case "csv":
            with file.open("w", newline="", encoding="utf-8-sig") as out:
                writer = csv.DictWriter(out, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        case "parquet":
            pl.DataFrame(rows).write_parquet(file)
    return str(file)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_one_file_is_a_source_and_a_task(tmp_path, kind):
    path = write(tmp_path, kind)
    task = tasks.load(tasks.TaskSpec(name="mine", path=path, question="problem", answer="solution", group="topic"))
    assert [(p.question, p.reference, p.kind, p.group) for p in task.problems] == [
        (row["problem"], *expected, row["topic"]) for row, expected in zip(ROWS, EXPECTED, strict=True)
    ]
    questions, made = collect_source(
        Own(name="mine", path=path, question="problem", answer="solution", licence="CC0"), lambda rows: None
    )
    assert questions.select("question", "answer", "answer_type", "solution", "licence").rows() == [
        (row["problem"], answer, kind.value, row["solution"], "CC0")
        for row, (answer, kind) in zip(ROWS, EXPECTED, strict=True)
    ]
    assert made["keep"].all()


OPTIONS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("fields", "row", "answer", "options"),
    [
        ({}, {"question": "q", "answer": "B", "options": OPTIONS}, "B", OPTIONS),
        ({}, {"question": "q", "answer": "(b)", "choices": OPTIONS}, "B", OPTIONS),
        ({}, {"question": "q", "answer": "blue", "options": OPTIONS}, "C", OPTIONS),
        ({}, {"question": "q", "answer": "A", "options": ["(A) red", "(B) green"]}, "A", ["red", "green"]),
        ({"options": "o"}, {"question": "q", "answer": "C", "o": dict(zip("ABC", OPTIONS, strict=True))}, "C", OPTIONS),
        ({}, {"question": "q", "answer": "A", "choices": {"text": OPTIONS, "label": ["A", "B", "C"]}}, "A", OPTIONS),
        ({}, {"question": "q", "answer": "green", "options": json.dumps(OPTIONS)}, "B", OPTIONS),
        ({"kind": "choice"}, {"question": "q? (A) red (B) green", "answer": "green"}, "B", []),
        # The text before the letter, and the file's own labels before both.
        ({}, {"question": "q", "answer": "cat A", "options": ["cat B", "cat A"]}, "B", ["cat B", "cat A"]),
        ({}, {"question": "q", "answer": "A", "options": {"B": "bee", "A": "ay"}}, "B", ["bee", "ay"]),
        ({}, {"question": "q", "answer": "2", "choices": {"text": ["2", "1"], "label": ["1", "2"]}}, "B", ["2", "1"]),
        # Marks that are the options' own, and what Parquet fills up.
        ({}, {"question": "q", "answer": "A.M.", "options": ["A.M.", "B.C."]}, "A", ["A.M.", "B.C."]),
        ({}, {"question": "q", "answer": "B", "options": ["red", "green", None]}, "B", ["red", "green"]),
    ],
)
def test_options_are_read_as_people_write_them(fields, row, answer, options):
    found = Columns(**fields).read(row)
    assert (found.answer, list(found.options), found.kind) == (answer, options, AnswerKind.CHOICE)


def test_a_choice_is_asked_alike_in_training_and_evaluation(tmp_path):
    path = write(tmp_path, "csv", [{"question": "Which?", "answer": "green", "options": json.dumps(OPTIONS)}])
    questions, _ = collect_source(Own(path=path), lambda rows: None)
    (problem,) = tasks.load(tasks.TaskSpec(name="mine", path=path)).problems
    assert questions["question"].item() == question_text(problem) == "Which?\n\nA) red\nB) green\nC) blue"
    assert questions["answer"].item() == problem.reference == "B"
    found = choose("Answer: B", Item("", "B", AnswerKind.CHOICE, questions["question"].item()).shown)
    assert found[0].text == "B"  # graded there by what the question shows


@pytest.mark.parametrize(
    ("fields", "row", "message"),
    [
        ({}, {"problem": "q", "answer": "1"}, "column 'question' is missing; the row has problem, answer"),
        ({}, {"question": "q", "solution": "1"}, "column 'answer' is missing.* give answer: null"),
        ({}, {"question": " ", "answer": "1"}, "column 'question' is ' '; a text is needed"),
        ({}, {"question": 7, "answer": "1"}, "column 'question' is '7'; a text is needed"),
        (
            {},
            {"question": "q", "answer": "D", "options": OPTIONS},
            "'D', which is no letter and no text of its 3 options",
        ),
        ({}, {"question": "q", "answer": 2, "options": OPTIONS}, "give the letter, A for the first one"),
        ({}, {"question": "q", "answer": "B", "options": ["B", "A"]}, "names options A and B; say which is right"),
        ({}, {"question": "q", "answer": "A", "options": ["red", ""]}, "option B is empty"),
        ({}, {"question": "q", "answer": "A", "options": "[" * 5000}, "a list of 2 to 10 texts"),
        ({}, {"question": "q", "answer": ["4"]}, "a text or a number is needed"),
        ({}, {"question": "q", "answer": b"4"}, "a text or a number is needed"),
        ({"kind": "choice"}, {"question": "q", "answer": "red"}, "the question shows no options; name their column"),
        ({"options": "o"}, {"question": "q", "answer": "A"}, "column 'o' is missing"),
        ({"options": "o"}, {"question": "q", "answer": "A", "o": "red, green"}, "a list of 2 to 10 texts"),
        ({"options": "o"}, {"question": "q", "answer": "A", "o": list("abcdefghijk")}, "a list of 2 to 10 texts"),
    ],
)
def test_a_row_that_does_not_fit_says_why(fields, row, message):
    with pytest.raises(ValueError, match=message):
        Columns(**fields).read(row)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "gsm8kk"}, "task 'gsm8kk' is unknown; did you mean 'gsm8k'.*give path: FILE"),
        ({"name": "mine"}, "task 'mine' is unknown; known: 's1_nano', 'gsm8k'.*give path: FILE"),
        ({"name": "gsm8k", "question": "problem"}, "has columns of its own, and question is given"),
        ({"name": "mine", "path": "f", "kind": "nmber"}, "kind is 'nmber'; did you mean 'number'"),
        ({"name": "my/own", "path": "f"}, "a name has letters, digits"),
        ({"name": "mine", "path": "nowhere.jsonl"}, "task mine: nowhere.jsonl is no file"),
        ({"name": "mine", "path": "README.md"}, "unknown kind of file '.md'; give .csv, .json, .jsonl, .parquet"),
    ],
)
def test_a_task_that_cannot_be_says_why(fields, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message):
        tasks.load(tasks.TaskSpec(**fields))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "q", "answer": None}], "row 1: column 'answer' is empty; give an answer"),
        ([{"question": "q", "answer": float("nan")}], "row 1: column 'answer' is empty; give an answer"),
        ([{"question": "q", "answer": "1", "id": 3}] * 2, "two rows of one id, '3'"),
        ([], "has no rows"),
        (["text"], "row 1: a row must be an object, not str"),
    ],
)
def test_a_task_needs_answers_and_rows(tmp_path, rows, message):
    (tmp_path / "f.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        tasks.load(tasks.TaskSpec(name="mine", path=str(tmp_path / "f.json")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; its first line must name its columns"),
        (b"a,a\n1,2\n", "has two columns 'a'"),
        (b"a,b\n1,\xff\n", "not CSV in UTF-8"),
        (b'a,b\n"1,2\n', "not CSV in UTF-8"),
    ],
)
def test_a_csv_file_that_is_none_says_why(tmp_path, content, message):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(tmp_path / "f.csv"))


def test_rows_of_a_csv_file_that_do_not_fit_its_head_are_bad_rows(tmp_path):
    (tmp_path / "f.CSV").write_text('a,b\n"1\n2",3\n\n4\n5,6,7\n')
    rows = [row for _, row in read_rows(tmp_path / "f.CSV")]
    assert rows[0] == {"a": "1\n2", "b": "3"}
    assert [isinstance(row, BadRow) for row in rows] == [False, True, True]
    assert rows[1].reason == "1 values, and 2 columns are named"


CHECK = """
import time
def longer(answer, reference, question):
    if answer == "hang":
        while True: pass
    if answer == "raise": raise ValueError("no\\n way")
    if answer == "odd": return 1
    if answer == "unsure": return None
    return len(answer) > len(reference or question)
"""


def test_a_function_judges_in_a_process_that_can_be_killed(tmp_path, monkeypatch):
    (tmp_path / "own_check_1.py").write_text(CHECK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = ["longer than it", "no", "hang", "raise", "odd", "unsure", ""]
    items = [Item(a, "four", AnswerKind.PYTHON, "q", "own_check_1.longer") for a in answers]
    with Grader(time_limit_s=0.5) as grader:
        found = grader.grade(items)
    assert [grade.correct for grade in found] == [True, False, None, None, None, None, False]
    assert [grade.rule for grade in found] == [
        *("own/python", "own/python", "own/grader_timeout", "own/grader_error", "own/grader_error", "own/python"),
        "no_answer",
    ]
    assert "ValueError" in found[3].detail and "must return True, False or None" in found[4].detail


HOSTILE = """
import os, subprocess, sys, time
START = time.process_time()
while time.process_time() - START < 0.7: pass  # more than an answer may take, and charged to none
def check(answer, reference, question):
    if answer == "child": subprocess.run([sys.executable, "-c", "print('{\\"correct\\": true}')"]); return False
    if answer == "write": os.write(1, b'{"correct": true, "rule": "r", "detail": ""}\\n'); return False
    if answer == "read": return bool(sys.stdin.read())
    if answer == "fork": os.fork(); return False
    if answer == "leave": os._exit(0)
    if answer == "exit": sys.exit(0)
    if answer == "numpy":
        import numpy
        return numpy.bool_(True)
    return True
"""


def test_no_checker_speaks_for_the_grader(tmp_path, monkeypatch):
    """What it writes, starts or reads reaches no verdict; where it ends the process, nothing is judged."""
    (tmp_path / "own_check_3.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = ["child", "write", "read", "fork", "plain", "leave", "exit", "numpy", "plain too"]
    with Grader(time_limit_s=0.6) as grader:
        found = grader.grade([Item(a, None, AnswerKind.PYTHON, "q", "own_check_3.check") for a in answers])
    verdicts = dict(zip(answers, [grade.correct for grade in found], strict=True))
    assert verdicts == {
        **dict.fromkeys(("child", "write", "read", "fork"), False),
        **dict.fromkeys(("leave", "exit"), None),
        **dict.fromkeys(("plain", "numpy", "plain too"), True),
    }


STARTS = """
import subprocess
def check(answer, reference, question):
    open("pid", "w").write(str(subprocess.Popen(["sleep", "99"]).pid))
    return True
"""


def test_what_a_checker_has_started_ends_with_it(tmp_path, monkeypatch):
    (tmp_path / "own_check_4.py").write_text(STARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with Grader() as grader:
        assert grader.grade([Item("x", None, AnswerKind.PYTHON, "q", "own_check_4.check")])[0].correct is True
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("check", "python:check names no function; write python:MODULE.FUNCTION"),
        ("no_such_module_1.check", "cannot be imported .ModuleNotFoundError.*PYTHONPATH"),
        ("json.no_such", "module json has no function no_such"),
        ("leaves_1.check", "cannot be imported .SystemExit"),
    ],
)
def test_a_function_that_is_not_there_says_so(name, message, tmp_path, monkeypatch):
    (tmp_path / "leaves_1.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        checker(name)


def evaluate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(folder)])
    command = [sys.executable, "-m", "bench.evaluate", *words]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_one_line_evaluates_a_file_and_keeps_the_run(tmp_path, monkeypatch):
    """A folder is data: the function that it names is run only where whoever grades it names it too."""
    (tmp_path / "own_check_2.py").write_text(
        "def check(answer, reference, question):\n    open('called', 'a').write('x')\n    return answer.strip() != ''\n"
    )
    write(tmp_path, "csv", [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(3)])
    line = ("--model", "s1-nano", "--questions", "mine.csv", "--budgets", "8", "--waits", "0", "--max-tokens", "64")
    line = (*line, "--answer-tokens", "16", "--kind", "python:own_check_2.check", "--device", "cpu")
    done = evaluate(tmp_path, *line)
    assert done.returncode == 0, done.stderr
    assert "| budget 8 | 100.0% |" in done.stdout and "mine, 3 problems" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-s1-nano-") and str(folder.relative_to(tmp_path)) in done.stderr
    assert "nothing to run" in evaluate(tmp_path, *line).stderr
    (tmp_path / "called").unlink()
    refused = evaluate(tmp_path, "grade", str(folder))
    assert refused.returncode == 2 and "give --checker python:own_check_2.check" in refused.stderr
    assert evaluate(tmp_path, "report", str(folder)).returncode == 0 and not (tmp_path / "called").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="task mine has no reference answers, which s1-grader needs"):
        grade.grade(folder, "s1-grader")
    graded = evaluate(tmp_path, "grade", str(folder), "--checker", "python:own_check_2.check")
    assert graded.returncode == 0 and (tmp_path / "called").exists(), graded.stderr
