"""`bench.search` in small: what it measures adds up, and what it cannot measure is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import read
from bench.search import Options, pages
from engine import Engine, InputError

ROOT = Path(__file__).parents[2]
NUMBERS = {"questions": 3, "width": 4, "depth": 3, "step": 5, "path": 320, "rounds": 1, "threads": 1}
SMALL = [*(word for name, number in NUMBERS.items() for word in (f"--{name}", str(number))), "--device", "cpu"]


def test_every_token_is_accounted_for(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in ("What is 3 + 4?", "Why?", "How?")))
    words = [
        *SMALL,
        "--model",
        "models/s1-nano",
        "--widths",
        "1",
        "4",
        "--prompts",
        str(questions),
        "--cache",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.search", *words, "--output", str(tmp_path / "out.jsonl")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = {(line.benchmark, line.case.get("width")): line.figures for line in read(tmp_path / "out.jsonl")}
    assert lines["search_cost", 4]["tree_tokens"] == 3 * 4 * 3 * 5
    assert lines["search_widths", 1]["generated"] == 3 * 3 * 5 and lines["search_widths", 4]["steps"] == 3 * 4 * 3
    scoring = lines["search_scoring", 4]
    assert scoring["full_tokens"] == 4 * sum(64 + 5 * depth for depth in range(1, 21))
    assert scoring["full_tokens"] > 5 * scoring["incremental_tokens"] >= 5 * 4 * 20 * 5


@pytest.mark.slow
def test_a_late_tree_holds_fewer_pages_than_its_leaves_would_alone() -> None:
    figures = pages(
        lambda **fields: Engine(
            ROOT / "models/s1-nano", device="cpu", dtype="float32", thinking_format="none", **fields
        ),
        Options(path=1024, context=32),
    )
    assert figures["tree_pages"] < figures["samples_pages"]
    assert figures["tree_tokens"] == (16 * 10 + 64 * 4 + 256 * 2) * 64 and figures["samples_tokens"] == 64 * 1024


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(InputError, match="start at 1"):
        Options(width=0)
