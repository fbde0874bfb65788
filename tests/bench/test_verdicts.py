"""One verdict wherever it is asked for: evaluation over HTTP, its command line, and curation's table."""

import hashlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations, permutations
from pathlib import Path

import polars as pl
import pytest
import yaml

from bench import evaluate
from bench.evaluation import files, grade, grid, run
from curate.grading import AnswerKind, Grader, Item
from curate.stages.attempts import ATTEMPT_SCHEMA, grade_attempts

CASES = files.data_folder().parent / "cases" / "grading.jsonl"
CLASSES = yaml.safe_load((Path(__file__).parents[1] / "curate/grading_classes.yaml").read_text(encoding="utf-8"))
OPTIONS = "Which?\n\nA) one red stone\nB) two blue stones\nC) no stone\nD) other stones"


def some_pairs(count):
    """(reference, response) from the corpus, one per two equal and one per two unequal."""
    same = [pair for kind in CLASSES.values() for writings in kind for pair in permutations(writings, 2)]
    other = [(x[0], y[-1]) for kind in CLASSES.values() for x, y in combinations(kind, 2)]
    draw = random.Random(19)
    return [*draw.sample(same, count // 2), *draw.sample(other, count // 2)]


class Replies:
    """A server whose answer to a question is given."""

    def __init__(self, replies):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = {"role": "assistant", "content": replies[body["messages"][-1]["content"]]}
                usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
                data = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *parts): ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def test_evaluation_its_command_and_curation_agree(tmp_path, capsys):
    pairs = [*some_pairs(200), *[("1", "1")] * 300]  # as many rows as MATH500 has
    rows = [{"problem": f"Question {i}?", "answer": gold, "unique_id": f"p{i}"} for i, (gold, _) in enumerate(pairs)]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    responses = [
        f"So it is.\n\n**Final Answer:** {given}" if i % 2 else f"$\\boxed{{{given}}}$"
        for i, (_, given) in enumerate(pairs)
    ]
    server = Replies({row["problem"]: response for row, response in zip(rows, responses, strict=True)})
    digest = hashlib.sha256((tmp_path / "math.jsonl").read_bytes()).hexdigest()
    what = {
        "tasks": [{"name": "math500", "path": str(tmp_path / "math.jsonl"), "sha256": digest}],
        "methods": [{"method": "none"}],
        "endpoint": {"url": server.url, "model": "m", "thinking_fields": False},
    }
    run.run(grid.from_values(what), tmp_path / "run")
    server.http.shutdown()
    assert evaluate.main(["grade", str(tmp_path / "run"), "--workers", "2"]) == 0
    verdicts = grade.read_grades(tmp_path / "run" / "grades.jsonl")
    by_id = {key.problem: graded.correct for key, graded in verdicts.items()}

    with Grader(workers=2) as grader:
        alone = grader.grade([Item(r, gold, AnswerKind.LATEX) for r, (gold, _) in zip(responses, pairs, strict=True)])
        attempts = pl.DataFrame(
            [
                {
                    **dict.fromkeys(ATTEMPT_SCHEMA),
                    "key": f"k{i}",
                    "qid": f"p{i}",
                    "sample": 0,
                    "attempt": r,
                    "model": "m",
                }
                for i, r in enumerate(responses)
            ],
            schema=dict(ATTEMPT_SCHEMA),
        )
        questions = pl.DataFrame(
            [
                {"qid": row["unique_id"], "question": row["problem"], "answer": row["answer"], "answer_type": "latex"}
                for row in rows
            ]
        )
        curated = grade_attempts(attempts, questions, grader)["verdict"].to_list()
    each = [(by_id[f"p{i}"], alone[i].correct, {"yes": True, "no": False}[curated[i]]) for i in range(len(pairs))]
    differ = [(pairs[i], verdict) for i, verdict in enumerate(each) if len(set(verdict)) > 1]
    assert not differ
    right = [verdict[0] for verdict in each]
    assert not [pairs[i] for i in range(100, 200) if right[i]]
    assert sum(right[:100]) > 98 and all(right[200:])

    capsys.readouterr()
    assert evaluate.main(["grade", str(tmp_path / "run"), "--explain", "p0"]) == 0
    said = capsys.readouterr().out
    assert "right by answer.boxed/" in said and repr(pairs[0][0]) in said and repr(responses[0]) in said


@pytest.mark.skipif(not CASES.is_file(), reason=f"no cases at {CASES}")
def test_what_once_failed():
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    items = [
        Item(case["answer"], case["reference"], AnswerKind(case["kind"]), OPTIONS if case["kind"] == "choice" else "")
        for case in cases
    ]
    with Grader(workers=2) as grader:
        grades = grader.grade(items)
    assert not [(c, g) for c, g in zip(cases, grades, strict=True) if g.correct is not c["right"]]


def test_changed_verdicts_are_listed_and_old_ones_are_not_reported(tmp_path, capsys):
    what = {"tasks": [{"name": "s1_nano", "count": 4}], "methods": [{"method": "budget", "budgets": [32]}]}
    run.run(grid.from_values(what), tmp_path)
    assert evaluate.main(["grade", str(tmp_path)]) == 0
    assert "than before" not in capsys.readouterr().out
    file = tmp_path / "grades.jsonl"
    head, row, *rest = file.read_text().splitlines()
    old, was = json.loads(head), json.loads(row)
    rows = [json.dumps({**old, "version": 1}), json.dumps({**was, "correct": not was["correct"], "rule": "old"}), *rest]
    file.write_text("\n".join(rows) + "\n")
    assert evaluate.main(["report", str(tmp_path)]) == 2
    assert "by version 1 of the grader" in capsys.readouterr().err
    assert evaluate.main(["grade", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "by old, now" in said[0] and was["problem"] in said[0]
    assert said[1:] == ["1 verdicts of 4 are others than before", str(file)]
    assert evaluate.main(["report", str(tmp_path)]) == 0
    assert evaluate.main(["grade", str(tmp_path), "--explain", "nothing"]) == 2
    assert "no sample of a problem 'nothing'" in capsys.readouterr().err
