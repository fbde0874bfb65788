"""What is held against the definitions on a device, and what passes."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench import correctness, record
from bench.checkpoints import checkpoint
from bench.correctness import NEAR, Answer, Options, compare


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Answer:
    folder = checkpoint(tmp_path_factory.mktemp("cache"), correctness.MODELS["tiny"])
    return correctness.answer(folder, "cpu", "float32")


def with_token(answer: Answer, request: int, at: int, token: int) -> Answer:
    tokens = [list(ids) for ids in answer.tokens]
    tokens[request][at] = token
    return replace(answer, tokens=tokens)


def test_the_same_is_the_same(theirs):
    assert compare(theirs, theirs) == {"equal": 1.0, "gap": 0.0, "error": 0.0}


def test_a_token_is_judged_by_how_likely_it_was(theirs):
    """Not by how near the definitions' own two best were."""
    for place in (1, 4, 9):
        (_, best), (token, value) = theirs.best[0][5][0], theirs.best[0][5][place]
        found = compare(with_token(theirs, 0, 5, token), theirs)
        assert found["gap"] == pytest.approx(best - value) and found["equal"] < 1
    unlikely = next(token for token in range(900) if token not in dict(theirs.best[0][5]))
    assert compare(with_token(theirs, 0, 5, unlikely), theirs)["gap"] > NEAR
    assert compare(with_token(theirs, 1, 5, unlikely), theirs)["gap"] == 0, "a sampled one: the noise moves draws"


def test_an_engine_that_always_says_the_same_is_wrong(theirs):
    ours = replace(theirs, tokens=[[777] * len(ids) for ids in theirs.tokens])
    assert compare(ours, theirs)["gap"] > NEAR


def test_log_probabilities_are_compared_where_the_text_is_the_same(theirs):
    """In sampled requests too, up to the first difference and at it, not behind it."""
    best = [list(map(list, one)) for one in theirs.best]
    best[1][7] = [(token, value - 0.5) for token, value in best[1][7]]
    wrong = replace(theirs, best=best)
    assert compare(wrong, theirs)["error"] == pytest.approx(0.5)
    assert compare(with_token(wrong, 1, 6, 3), theirs)["error"] == 0
    best[1][7] = [(token + 1000, value) for token, value in best[1][7]]
    assert compare(wrong, theirs)["error"] > NEAR


def test_each_result_is_written_at_once_and_only_what_was_right_is_left_out(tmp_path, monkeypatch):
    output, told = tmp_path / "out.jsonl", Console(file=StringIO(), width=200)
    options = Options(device="cpu", parts=("training", "operators"), output=output, cache=tmp_path)
    ran: list[str] = []

    def one_fails(file: Path, workers: int) -> dict[str, float | None]:
        """In the place of minutes of tests."""
        assert len(record.read(output)) == 1 + len(ran), "what came before is there already"
        ran.append(file.stem)
        return {"passed": 3.0, "failed": float(file.stem == "test_row_kernels"), "skipped": 0.0}

    monkeypatch.setattr(correctness, "operator_tests", one_fails)
    assert not correctness.Run(options, told).all()
    assert len(ran) > 4 and "test_row_kernels" in ran
    ran.clear()
    lines = record.read(output)
    monkeypatch.setattr(correctness, "operator_tests", lambda file, _: ran.append(file.stem) or {"failed": 0.0})
    assert correctness.Run(replace(options, resume=True), told).all()
    assert ran == ["test_row_kernels"] and len(record.read(output)) == len(lines) + 1
    ran.clear()
    elsewhere = output.read_text().replace(lines[0].device, "another machine")
    output.write_text(elsewhere)
    assert correctness.Run(replace(options, resume=True), told).all()
    assert len(ran) > 4, "what another machine did right"


def test_operator_tests_are_run_and_counted(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text("import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip()\n")
    assert correctness.operator_tests(file, 1) == {"passed": 1, "failed": 1, "skipped": 1}
