"""Grading as a pass of its own: rows of a run in, `grades*.jsonl` out. Nothing is generated again."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.evaluation.extraction import GraderName, Mode, extract_as_s1
from bench.evaluation.grid import Grid, from_values
from bench.evaluation.log import Key, key_of, read_run, sample_rows
from bench.evaluation.prompts import item_of
from bench.evaluation.tasks import Problem, Task, load
from curate.families import NOT_FOUND
from curate.grading.compare import canonical
from curate.grading.grade import AnswerKind, Grade, Grader
from curate.grading.judge import Judge
from engine import InputError
from engine.errors import first_line, shown
from engine.json_file import parse_json
from engine.whole_file import write_whole

VERSION = 3
"""Raised with every change of what is graded right."""


@dataclass(frozen=True)
class Graded:
    """The verdict on one row.

    Attributes:
        correct: None where nothing could grade it.
        rule: how the answer was found and compared, such as `answer.boxed/number`.
        vote: the answer in one spelling for majority votes; None: no answer, so no vote.
    """

    correct: bool | None
    rule: str
    extracted: str | None
    vote: str | None
    detail: str = ""


def grades_file(folder: Path, grader: GraderName, mode: Mode) -> Path:
    """Where the grades of this grader are: each has a file of its own."""
    name = "grades" if (grader, mode) == ("s1-engine", "answer") else f"grades-{mode}"
    return folder / ("grades-s1-grader.jsonl" if grader == "s1-grader" else f"{name}.jsonl")


def checkers_of(grid: Grid) -> tuple[str, ...]:
    """The functions, `module.function`, that judge a grid's own questions."""
    return tuple(dict.fromkeys(task.columns.checker for task in grid.tasks if task.columns.checker))


def grade(
    folder: Path,
    grader: GraderName = "s1-engine",
    mode: Mode = "answer",
    workers: int = 1,
    judge: Judge | None = None,
    checkers: Sequence[str] = (),
) -> Path:
    """Grade every row of a run and write them in the grid's order. Returns the file.

    `s1-grader` reproduces the original's extraction and comparison for its published columns, without a judge.
    `checkers` are the functions that may be run: a folder alone, which may come from anywhere, names none.

    Raises InputError where the run, its data or a row's problem is missing or another than when it was run.
    """
    if grader == "s1-engine":
        _refuse_code(folder, checkers)
    known = {(task.name, p.id): p for task in load_tasks(folder).values() for p in task.problems}
    rows = sorted(sample_rows(folder), key=lambda row: (row["task"], row["condition"], row["problem"], row["sample"]))
    for row in rows:
        if (row["task"], row["problem"]) not in known:
            raise InputError(
                f"the log has problem {row['problem']!r} of task {row['task']}, which its data does not have"
            )
    problems = [known[row["task"], row["problem"]] for row in rows]
    if grader == "s1-grader":
        verdicts = list(map(_as_s1, rows, problems))
    else:
        with Grader(workers=workers, judge=judge, strict=mode == "strict") as by_rule:
            verdicts = by_phase(rows, problems, mode, by_rule)
    lines = [
        {"grader": grader, "mode": mode, "version": VERSION, "judge": None if judge is None else judge.name},
        *({**key_of(row)._asdict(), **vars(verdict)} for row, verdict in zip(rows, verdicts, strict=True)),
    ]
    file = grades_file(folder, grader, mode)
    write_whole(file, "".join(json.dumps(line) + "\n" for line in lines))
    return file


def _refuse_code(folder: Path, checkers: Sequence[str]) -> None:
    for task in load_grid(folder).tasks:
        if task.columns.checker and task.columns.checker not in checkers:
            raise InputError(
                f"{folder}: task {task.name} is graded by a function; to run it give --checker {shown(task.kind)[1:-1]}"
            )


def read_grades(file: Path, any_version: bool = False) -> dict[Key, Graded]:
    """The verdicts of a grades file. Raises InputError where there is none, it cannot be read, or another version of
    the grader wrote it."""
    flags = {"grades": "", "grades-s1-grader": " --grader s1-grader"}.get(
        file.stem, f" --mode {file.stem.removeprefix('grades-')}"
    )
    again = f"grade the run again: python -m bench.evaluate grade {file.parent}{flags}"
    try:
        head, *rows = (parse_json(line) for line in file.read_bytes().split(b"\n") if line)
        if head["version"] != VERSION and not any_version:
            raise InputError(f"{file}: is by version {head['version']} of the grader, and this is {VERSION}; {again}")
        return {key_of(row): Graded(**{name: row[name] for name in Graded.__dataclass_fields__}) for row in rows}
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; {again.replace('again', 'first')}") from error
    except InputError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); {again}") from error


def changes(before: Mapping[Key, Graded], after: Mapping[Key, Graded]) -> list[str]:
    """A line for every verdict that is another one than before."""
    return [
        f"{' '.join(map(str, key))}: {_SAID[old.correct]} by {old.rule}, now {_SAID[new.correct]} by {new.rule}: "
        f"{shown(new.extracted or old.extracted)}"
        for key, new in after.items()
        if (old := before.get(key)) is not None and old.correct is not new.correct
    ]


_SAID = {True: "right", False: "wrong", None: "ungradable"}


def explain(folder: Path, problem: str, mode: Mode = "answer", checkers: Sequence[str] = ()) -> str:
    """Of every sample of a problem: the verdict, the rule, and what reference and answer were read as.

    Raises InputError where the run has no sample of the problem.
    """
    _refuse_code(folder, checkers)
    known = {(task.name, p.id): p for task in load_tasks(folder).values() for p in task.problems}
    rows = [row for row in sample_rows(folder) if row["problem"] == problem and (row["task"], problem) in known]
    if not rows:
        ids = shown(sorted({row["problem"] for row in sample_rows(folder)})[:3])
        raise InputError(f"{folder} has no sample of a problem {shown(problem)}; its problems are such as {ids}")
    lines = []
    with Grader(strict=mode == "strict") as grader:
        for row in rows:
            about = known[row["task"], problem]
            (verdict,) = by_phase([row], [about], mode, grader)
            lines.append(f"{' '.join(map(str, key_of(row)))}: {_SAID[verdict.correct]} by {verdict.rule}")
            phase = "reasoning" if verdict.rule.startswith("reasoning.") else "answer"
            (given,) = grader.grade([item_of(about, row[phase])])
            read_as = given.read_as if given.rule.endswith(verdict.rule.partition("/")[2]) else ("", "")
            for name, text, reading in (
                ("reference", about.reference, read_as[0]),
                ("answer", verdict.extracted, read_as[1]),
            ):
                if name == "reference" and text is None:
                    lines.append("  reference none: a checker decides from the question")
                    continue
                lines.append(f"  {name:9} {shown(text)}" + (f" read as {shown(reading)}" if reading else ""))
            lines.append(f"  {phase + ' ends':9} {shown(row[phase][-200:])}")
            lines += [f"  {verdict.detail}"] * bool(verdict.detail)
    return "\n".join(lines)


def load_tasks(folder: Path) -> dict[str, Task]:
    """The tasks of a run. Raises InputError where the data is another than when it was run."""
    loaded = {task.name: task for task in (load(spec) for spec in load_grid(folder).tasks)}
    for name, sha256 in read_run(folder)["identity"]["tasks"].items():
        if loaded[name].sha256 != sha256:
            raise InputError(
                f"{folder}: task {name} was run on data with SHA-256 {sha256} and is now "
                f"{loaded[name].sha256}; put the old file back"
            )
    return loaded


def load_grid(folder: Path) -> Grid:
    """The grid that a folder was run with."""
    return from_values(read_run(folder)["identity"]["grid"])


def by_phase(rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem], mode: Mode, by: Grader) -> list[Graded]:
    """Verdicts by phase: the answer, then, where that holds none and `mode` is lenient, the reasoning."""
    found = [_known(row, problem, mode == "strict") for row, problem in zip(rows, problems, strict=True)]
    for phase in ("answer", "reasoning") if mode == "lenient" else ("answer",):
        left = [i for i, graded in enumerate(found) if graded is None]
        grades = by.grade([item_of(problems[i], rows[i][phase]) for i in left])
        for i, given in zip(left, grades, strict=True):
            # A trace of one line is not an answer.
            if given.rule != "no_answer" and (phase == "answer" or not given.rule.startswith("whole/")):
                found[i] = _verdict(given, phase, problems[i].kind)
    return [graded or _no_answer(row) for graded, row in zip(found, rows, strict=True)]


def _known(row: Mapping[str, Any], problem: Problem, strict: bool) -> Graded | None:
    """The verdict on a row that failed, or that keeps the letter of its answer instead of its text."""
    if row["error"]:
        return Graded(False, "error", None, None, str(row["error"])[:200])
    if row["choice"] is None:
        return None
    letter = row["choice"]["text"]
    if letter is None or (strict and "last_letter" in row["choice"]["rule"]):
        return _no_answer(row)
    correct = letter == problem.reference
    return Graded(correct, f"{row['choice']['rule']}/choice", letter, vote(letter, problem.kind, correct))


def _no_answer(row: Mapping[str, Any]) -> Graded:
    return Graded(False, "no_answer" if row["left_thinking"] else "never_left_thinking", None, None)


def _verdict(given: Grade, phase: str, kind: AnswerKind) -> Graded:
    answer = given.extracted
    cast = None if answer is None else vote(answer, kind, bool(given.correct))
    return Graded(given.correct, f"{phase}.{given.rule}", answer, cast, given.detail)


def vote(answer: str, kind: AnswerKind, correct: bool) -> str | None:
    """An answer in one spelling: what is equal to the reference is equal to each other, the rest goes by its text.

    A family, and a function, may have several right answers, which do not vote for each other, and may find wrong what
    is a right one in other words ("4 every Monday"): that does not vote for it either. Who says that nothing was found
    has no answer to vote for.
    """
    if kind is AnswerKind.FAMILY and answer.strip() == NOT_FOUND:
        return None
    if correct and kind not in (AnswerKind.FAMILY, AnswerKind.PYTHON):
        return "="
    return ("" if correct else "wrong: ") + canonical(answer)[:200]


def _as_s1(row: Mapping[str, Any], problem: Problem) -> Graded:
    """Integers as integers, choices as letters, the rest as strings, where the original asked its judge."""
    if row["choice"] is not None:
        raise InputError(f"task {row['task']} keeps no text of its responses, which s1-grader reads; grade it without")
    if row["error"]:
        return Graded(False, "error", None, None, str(row["error"])[:200])
    found = extract_as_s1(row["answer"], problem.kind)
    if problem.kind in (AnswerKind.FAMILY, AnswerKind.PYTHON):
        raise InputError(f"task {row['task']} has no reference answers, which s1-grader needs; grade it without")
    given, reference = (found.text or "").strip(), (problem.reference or "").strip()
    both = all(re.fullmatch("[0-9]+", text) for text in (given, reference))
    # As numbers, which Python reads only up to a length.
    correct = given.lstrip("0") == reference.lstrip("0") if both else given == reference
    return Graded(correct, found.rule + ("/integer" if both else "/string"), found.text, given or None)


def rows_with_grades(folder: Path, grader: GraderName, mode: Mode) -> Iterator[tuple[dict[str, Any], Graded]]:
    """Every row of the log that is a condition's sample, with its verdict. Raises InputError where one has none, or is
    under a condition that the run does not have."""
    grades = read_grades(grades_file(folder, grader, mode))
    conditions = {condition.label for condition in load_grid(folder).conditions()}
    for row in sample_rows(folder):
        key = key_of(row)
        if key.condition not in conditions:
            raise InputError(f"{folder}: run.json has no condition {shown(key.condition)}, and samples of it are there")
        if key not in grades:
            raise InputError(
                f"{folder}: {key} has no grade; grade the run again: python -m bench.evaluate grade {folder}"
            )
        yield row, grades[key]
