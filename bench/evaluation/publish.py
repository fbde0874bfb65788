"""What of a run goes elsewhere: benchmark records, samples in the clear, tables inside a document."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from bench.evaluation.grade import load_tasks, rows_with_grades
from bench.evaluation.grid import Grid
from bench.evaluation.prompts import question_text
from bench.record import Machine, append
from engine import InputError
from engine.command.append_log import AppendLog

BEGIN, END = "<!-- evaluation: begin (python -m bench.evaluate GRID.yaml --write) -->", "<!-- evaluation: end -->"


def append_records(report: Mapping[str, Any], grid: Grid, seconds: float | None, file: Path) -> None:
    """One benchmark record per condition; `seconds` is the whole run's, reuse included, None where it was gone on
    with."""
    machine = Machine.read(torch.device("cpu"))
    seeds = {task.name: task.seed for task in grid.tasks}
    params = {condition.label: condition.params for condition in grid.conditions()}
    for task in report["tasks"]:
        for row in task["conditions"]:
            asked = params[row["condition"]]
            case = {
                "task": task["task"],
                "model": report["model"],
                "questions": row["problems"],
                "seed": seeds[task["task"]],
                "condition": row["condition"],
                "samples": row["samples"],
                "budget": asked.thinking_token_budget,
                "waits": asked.thinking_extensions,
            }
            figures = {
                "accuracy": row["accuracy"],
                "low95": row["interval"]["low"],
                "high95": row["interval"]["high"],
                "thinking_tokens": row["thinking_tokens"],
                "max_thinking_tokens": float(row["max_thinking_tokens"]),
                "control": row["control"],
                "p_fell": (row["change"] or {}).get("p_fell"),
                "forced_ends": float(row["forced_ends"]),
                "no_answer": float(row["no_answer"]),
                "run_seconds": seconds,
            } | {f"accuracy_{group}": value for group, value in row["groups"].items()}
            if row.get("at_k"):
                figures |= _together(row["at_k"][-1])
            if "search" in row:
                figures |= row["cost"] | _over(row["search"]["over"])
            append(file, machine.record("evaluate", case, figures))


def _together(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of all samples taken together: majority and best of k, and what majority gains in shares, paired."""
    gains = [name for name in ("gain", "gain_over_greedy") if name in entry]
    ends = {"": "difference", "_low95": "low", "_high95": "high"}
    return {
        "k": float(entry["k"]),
        "majority": entry["majority"],
        "majority_low95": entry["majority_interval"][0],
        "majority_high95": entry["majority_interval"][1],
        "best_of": entry["best_of"],
        "pass": entry["pass"],
        "unique_tokens": entry["unique_tokens"],
        "path_tokens": entry["path_tokens"],
        **{f"{name}{end}": entry[name][of] for name in gains for end, of in ends.items()},
    }


def _over(change: Mapping[str, Any] | None) -> dict[str, float]:
    """What a search gains over the best greedy sample of no more cost, in shares, paired."""
    ends = {"": "difference", "_low95": "low", "_high95": "high"}
    return {f"gain_at_cost{end}": change[of] for end, of in ends.items()} if change and change["problems"] else {}


def write_samples(folder: Path, file: Path) -> None:
    """Every question with what was thought and answered, in one line each. Raises InputError for a private task."""
    tasks = load_tasks(folder)
    for task in tasks.values():
        if task.private:
            raise InputError(f"task {task.name} may not be written in the clear; leave --samples out")
    problems = {(task.name, p.id): p for task in tasks.values() for p in task.problems}
    samples = [
        {
            "task": row["task"],
            "condition": row["condition"],
            "id": row["problem"],
            "sample": row["sample"],
            "prompt": question_text(problems[row["task"], row["problem"]]),
            "reasoning": row["reasoning"],
            "answer": row["answer"],
            "right": graded.correct,
            "thinking_tokens": row["thinking_tokens"],
        }
        for row, graded in rows_with_grades(folder, "s1-engine", "answer")
    ]
    with closing(AppendLog(file)) as log:  # all or nothing, and of one run at a time
        log.append("".join(json.dumps(sample) + "\n" for sample in samples).encode())


def insert(file: Path, text: str) -> str:
    """The document with `text` between the marks. Raises InputError where it has no marks, or is not there."""
    try:
        document = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; give an existing document") from error
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{file}: has no place for the tables; put the lines {BEGIN} and {END} where they belong")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"
