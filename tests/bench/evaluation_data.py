"""Grids on s1-nano, rows of a run, and question files with the real ones' columns and nothing of their contents."""

import csv
import hashlib
from pathlib import Path

from bench.evaluation import grid
from bench.evaluation.log import key_of, read_rows


def write_gpqa(path: Path) -> str:
    """GPQA Diamond's columns and number of rows; returns the file's SHA-256."""
    names = [
        "Question",
        "Correct Answer",
        "Incorrect Answer 1",
        "Incorrect Answer 2",
        "Incorrect Answer 3",
        "High-level domain",
        "Record ID",
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for i in range(198):
            question = f"Question {i},\nin two lines?"
            values = [question, f"right {i}", "wrong a", "wrong b", "wrong c", "Physics", f"r{i}"]
            writer.writerow(dict(zip(names, values, strict=True)))
    return hashlib.sha256(path.read_bytes()).hexdigest()


MODEL = str(Path(__file__).parents[2] / "models" / "s1-nano")
ENGINE = {"device": "cpu", "dtype": "float32", "max_num_seqs": 32, "kv_cache_tokens": 32768}
SWEEP = [
    {"method": "budget", "budgets": [0, 1, 16, 32, 64, 128, 256, 512]},
    {"method": "extensions", "extensions": [0, 1, 2, 4], "budget": 512},
]


def make(*methods, count=24, **fields):
    return grid.from_values(
        {
            "model": MODEL,
            "tasks": [{"name": "s1_nano", "count": count, "seed": 11}],
            "methods": methods or SWEEP,
            "answer_tokens": 48,
            "engine": ENGINE,
            **fields,
        }
    )


def rows_of(folder):
    return {key_of(row): row for row in read_rows(folder)}


SAME = (
    "token_ids",
    "forced",
    "reasoning",
    "answer",
    "finish_reason",
    "thinking_tokens",
    "extensions",
    "stop_reason",
    "prompt_tokens",
    "completion_tokens",
    "prompt_hash",
    "seed",
    "left_thinking",
)
