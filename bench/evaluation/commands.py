"""What `bench.evaluate` does: a run with its grades, report and pages, or one of these again."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from bench.evaluation import accuracy, browse, compare, grade, grid, outcomes, plot, publish, run, status, tables
from bench.evaluation.extraction import GraderName, Mode
from bench.evaluation.log import read_run
from bench.evaluation.options import GradeOptions, RunOptions
from bench.evaluation.tasks import TaskName
from curate.grading.checker import PREFIX, checker
from curate.grading.judge import Judge
from curate.models.opened import open_model
from curate.models.store import Store
from engine.errors import InputError
from engine.rows_file import KINDS
from engine.whole_file import write_whole

NANO_BUDGETS, NANO_WAITS, NANO_BUDGET = (16, 32, 64, 128, 256, 512), (0, 1, 2, 4, 8), 1024
S1_BUDGETS, S1_WAITS = (500, 1000, 2000, 4000, 8000, 16000), (0, 1, 2, 4, 6)
"""What is run where flags name a task and no limits: goals of s1-nano's card, and the paper's grid."""


_OF_QUESTIONS = ("question", "answer", "kind", "options")
_OF_GRIDS = (
    *("task", "questions", *_OF_QUESTIONS, "count", "seed", "budgets", "waits", "harness_arguments"),
    *("max_tokens", "answer_tokens", "prompt"),
)
"""Flags that say what a grid says."""


def obey(name: str, options: Any) -> None:
    """One command, with its options; "" is a run."""
    match name:
        case "status":
            print(status.text(options.folder))
        case "grade":
            _grade(options)
        case "report":
            found = write_report(options.folder, options.grader, options.mode)
            _insert(options.write, found)
            print(tables.markdown(found), end="")
        case "plot":
            found = write_report(options.folder, options.grader, options.mode)
            print(*plot.draw(found, options.folder / "figures"), sep="\n")
        case "browse":
            print(browse.write_page(options.folder, options.grader, options.mode))
        case "compare":
            print(compare.text(options.folder, options.other))
        case _:
            _run(options)


def _run(options: RunOptions) -> None:
    what = with_overrides(grid.load(options.grid) if options.grid is not None else _grid_of(options), options)
    for file in options.write:
        publish.insert(file, "")  # a document that has no place for the tables is refused before the run, not behind it
    folder = options.out or Path("runs") / (_plain(what.title) if options.grid is not None else _named(what))
    started, resumed = time.perf_counter(), (folder / "samples.jsonl").exists()
    checkers = grade.checkers_of(what)
    for name in checkers:
        checker(name)  # one that is not there is refused before the run, not behind it
    run.run(what, folder)
    seconds = None if resumed else time.perf_counter() - started
    grade.grade(folder, workers=options.workers, checkers=checkers)
    found = write_report(folder)
    files = plot.draw(found, folder / "figures")
    browse.write_page(folder)
    if options.results is not None:
        publish.append_records(found, what, seconds, options.results)
    if options.samples is not None:
        publish.write_samples(folder, options.samples)
    for figure in options.figure:
        figure.parent.mkdir(parents=True, exist_ok=True)
        named = {f.name.rpartition("-")[2]: f for f in reversed(files)}
        shutil.copyfile(named.get("search.png") or named["accuracy.png"], figure)
    _insert(options.write, found)
    print(tables.markdown(found), end="")
    print(f"\n{folder}: report.md, report.json, figures/, samples.html", file=sys.stderr)


def _named(what: grid.Grid) -> str:
    """A folder's name for a grid that flags made: task, model, and what tells it from other grids of the two."""
    digest = hashlib.sha256(json.dumps(msgspec.to_builtins(what), sort_keys=True).encode()).hexdigest()
    return f"{_plain(what.tasks[0].name)}-{_plain(outcomes.called(what))}-{digest[:8]}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+|^\.+$", "_", name)


def _grid_of(options: RunOptions) -> grid.Grid:
    nano = options.task == "s1_nano" and options.questions is None
    budgets = (NANO_BUDGETS if nano else S1_BUDGETS) if options.budgets is None else options.budgets
    waits = (NANO_WAITS if nano else S1_WAITS) if options.waits is None else options.waits
    if options.harness_arguments:
        budgets, waits = options.budgets or (), options.waits or ()
    methods = [
        *({"method": "harness", "arguments": text} for text in options.harness_arguments),
        *([{"method": "budget", "budgets": budgets}] if budgets else []),
        *([{"method": "extensions", "extensions": waits, "budget": NANO_BUDGET if nano else None}] if waits else []),
    ]
    if options.questions is None:
        task: dict[str, Any] = {"name": options.task}
        _refuse_given(options, _OF_QUESTIONS, "is a column of your own questions; give --questions FILE too")
    else:
        file = Path(options.questions.removeprefix("hub:"))
        name = _plain(file.stem if file.suffix.lower() in KINDS else file.name)[:80] or "questions"
        task = {"name": f"own_{name}" if name in get_args(TaskName) else name, "path": options.questions}
        task |= {name: getattr(options, name) for name in _OF_QUESTIONS}
        _refuse_given(options, ("task",), f"and --questions {options.questions} are two tasks; leave one out")
    lengths = {
        "answer_tokens": (48 if nano else 1024) if options.answer_tokens is None else options.answer_tokens,
        "max_tokens": options.max_tokens,
    }
    return grid.from_values(
        {
            "tasks": [task | {"count": options.count, "seed": options.seed}],
            "methods": methods,
            "prompt": options.prompt,
            "engine": {"device": "cpu", "dtype": "float32"} if nano else {},
        }
        | {name: value for name, value in lengths.items() if value is not None}
    )


def _refuse_given(options: RunOptions, names: Iterable[str], why: str) -> None:
    """Raises InputError for a flag of these that is given."""
    defaults = RunOptions()
    for name in names:
        if getattr(options, name) != getattr(defaults, name):
            raise InputError(f"--{name.replace('_', '-')} {why}")


def with_overrides(what: grid.Grid, options: RunOptions) -> grid.Grid:
    """The grid under the flags that lay themselves over one. Raises InputError for those that do not."""
    if options.grid is not None:
        _refuse_given(options, _OF_GRIDS, f"is given with {options.grid}; write it into the grid")
    given = {name: getattr(options, name) for name in ("adapter", "device", "dtype", "max_num_seqs")}
    if options.endpoint is not None:
        return _at_endpoint(what, options, given)
    return msgspec.structs.replace(
        what,
        engine=what.engine | {name: value for name, value in given.items() if value is not None},
        model=options.model or what.model,
        thinking_format=options.thinking_format or what.thinking_format,
        reuse=what.reuse and not options.independent,
    )


def _at_endpoint(what: grid.Grid, options: RunOptions, of_engines: Mapping[str, Any]) -> grid.Grid:
    """The grid on a server; what it says of one besides, such as `body`, is kept. Raises InputError for flags of an
    engine in this process, and where the server's model is not named."""
    _refuse_given(options, of_engines, "is of an engine in this process; leave it or --endpoint out")
    if options.model is None and what.endpoint is None:
        raise InputError("--endpoint needs --model, the name that the server knows the model by")
    forced = any(not condition.label.startswith("no ") for condition in what.conditions())
    old = what.endpoint or grid.Endpoint(url=options.endpoint or "", model=options.model or "", thinking_fields=forced)
    endpoint = msgspec.structs.replace(old, url=options.endpoint, model=options.model or old.model)
    format = options.thinking_format or what.thinking_format
    return msgspec.structs.replace(what, endpoint=endpoint, engine={}, thinking_format=format)


def _grade(options: GradeOptions) -> None:
    if options.explain is not None:
        print(grade.explain(options.folder, options.explain, options.mode, _checkers(options)))
        return
    file = grade.grades_file(options.folder, options.grader, options.mode)
    before = grade.read_grades(file, any_version=True) if file.exists() else {}
    _grade_rows(options)
    changed = grade.changes(before, grade.read_grades(file))
    print(
        *changed,
        *[f"{len(changed):,} verdicts of {len(before):,} are others than before"] * bool(before),
        file,
        sep="\n",
    )


def _grade_rows(options: GradeOptions) -> None:
    if options.judge_url is None:
        grade.grade(options.folder, options.grader, options.mode, options.workers, None, _checkers(options))
        return
    if options.judge_model is None:
        raise InputError("--judge-url needs --judge-model, so that verdicts can be traced to a model")
    read_run(options.folder)  # a folder without a run gets no store
    asked = {
        "model": options.judge_model,
        "base_url": options.judge_url,
        "api_key_env": "OPENAI_API_KEY" if "OPENAI_API_KEY" in os.environ else "",
    }
    with Store(options.folder / "judge.sqlite", retry_errors=True) as store, open_model(asked, store) as model:
        grade.grade(options.folder, options.grader, options.mode, options.workers, Judge(model), _checkers(options))


def _checkers(options: GradeOptions) -> tuple[str, ...]:
    """The function that may be run. Raises InputError where it is not there."""
    if options.checker is None:
        return ()
    name = options.checker.removeprefix(PREFIX)
    checker(name)
    return (name,)


def write_report(folder: Path, grader: GraderName = "s1-engine", mode: Mode = "answer") -> dict[str, Any]:
    """Write a graded run's report; returns it."""
    found = accuracy.report(outcomes.load(folder, grader, mode), grader, mode)
    name = grade.grades_file(folder, grader, mode).stem.replace("grades", "report")
    write_whole(folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    write_whole(folder / f"{name}.md", tables.markdown(found))
    return found


def _insert(files: Sequence[Path], found: Mapping[str, Any]) -> None:
    for file in files:
        write_whole(file, publish.insert(file, tables.summary(found)))
