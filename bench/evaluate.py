"""Accuracy against thinking tokens, from a grid to the figure; kill it at any point and run the command again.

    python -m bench.evaluate bench/grids/s1_nano.yaml --out runs/s1_nano
    python -m bench.evaluate --task s1_nano --count 200 --budgets 16 64 256 --waits 0 2
    python -m bench.evaluate status | grade | report | plot | browse FOLDER
    python -m bench.evaluate grade FOLDER --explain PROBLEM
    python -m bench.evaluate compare FOLDER OTHER

The first two run what is missing, grade it, and write report.md, report.json, figures and samples.html into the folder;
the others do one of these again, without a model. docs/evaluation.md tells the rest.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro

from bench.evaluation import accuracy, browse, compare, grade, grid, outcomes, plot, publish, run, status, tables
from bench.evaluation.extraction import Mode
from bench.evaluation.log import read_run
from bench.evaluation.tasks import TaskName
from curate.grading.judge import Judge
from curate.models.opened import open_model
from curate.models.store import Store
from engine import EngineDead, InputError
from engine.command.flags import read_flags
from engine.command.stop import exit_code, terminable
from engine.errors import tell
from engine.whole_file import write_whole

NANO_BUDGETS, NANO_WAITS, NANO_BUDGET = (16, 32, 64, 128, 256, 512), (0, 1, 2, 4, 8), 1024
MAX_WORKERS = 1024
"""Each is a process."""
S1_BUDGETS, S1_WAITS = (500, 1000, 2000, 4000, 8000, 16000), (0, 1, 2, 4, 6)
"""What is run where flags name a task and no limits: goals of s1-nano's card, and the paper's grid."""


@dataclass(frozen=True)
class RunOptions:
    """What to run, and where it goes."""

    grid: Annotated[Path | None, tyro.conf.Positional] = None
    """YAML file; without it the flags below make the grid."""
    task: TaskName = "s1_nano"
    model: str | None = None
    """Checkpoint directory or hub id; also lays itself over a grid's."""
    count: int | None = None
    seed: int = 7
    """Which problems are drawn or chosen."""
    budgets: tuple[int, ...] | None = None
    """Thinking budgets to run without a "Wait"; None: the task's."""
    waits: tuple[int, ...] | None = None
    """Numbers of "Wait"s to run; None: the task's."""
    harness_arguments: tuple[str, ...] = ()
    """Conditions in the original harness's words, "max_tokens_thinking=auto,thinking_n_ignore=2,..."."""
    device: str | None = None
    dtype: str | None = None
    max_num_seqs: int | None = None
    out: Path | None = None
    """Folder of the run, to go on in or to read later. None: `runs/NAME` for a grid, nothing is kept for flags."""
    independent: bool = False
    """Run every condition by itself instead of forking one trace per problem."""
    workers: int = 1
    """Grading processes."""
    results: Path | None = None
    """JSONL file of benchmark records that gets one line per condition."""
    samples: Path | None = None
    """JSONL file that gets every question, response and verdict in the clear (not for private tasks)."""
    figure: tuple[Path, ...] = ()
    """PNG files that get accuracy against average thinking tokens of the first task."""
    write: tuple[Path, ...] = ()
    """Markdown files whose part between the evaluation's marks gets the summary."""


@dataclass(frozen=True)
class FolderOptions:
    """A run that is there, and how it is graded."""

    folder: Annotated[Path, tyro.conf.Positional]
    grader: grade.GraderName = "s1-engine"
    """`s1-grader`: as the original graded, for its published columns only."""
    mode: Mode = "answer"
    """Where answers are looked for: `strict`, `answer`, or `lenient` (the reasoning too)."""
    workers: int = 1
    """Grading processes."""
    judge_url: str | None = None
    """OpenAI-compatible server that judges words unlike the reference, blind; None: no judge."""
    judge_model: str | None = None
    write: tuple[Path, ...] = ()
    """Markdown files whose part between the evaluation's marks gets the report's summary."""


@dataclass(frozen=True)
class GradeOptions(FolderOptions):
    """A run to grade, again or for the first time; verdicts that change are listed."""

    explain: str | None = None
    """Id of a problem: write nothing, and tell of each of its samples which rule decided and what was read as what."""


@dataclass(frozen=True)
class CompareOptions:
    """Two graded runs, condition by condition, on the problems that both have."""

    folder: Annotated[Path, tyro.conf.Positional]
    other: Annotated[Path, tyro.conf.Positional]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 1 the engine or a disk failed, 2 bad input, 130 and 143
    interrupted and terminated."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folders = dict.fromkeys(("status", "report", "plot", "browse"), FolderOptions)
    kinds = {**folders, "grade": GradeOptions, "compare": CompareOptions}
    name = next((word for word in arguments[:1] if word in kinds), "")
    try:
        options: Any = read_flags(
            kinds.get(name, RunOptions),
            arguments[1:] if name else arguments,
            f"python -m bench.evaluate {name}".rstrip(),
            None if name == "compare" else __doc__,
        )
        workers = getattr(options, "workers", 1)
        if not 1 <= workers <= MAX_WORKERS:
            raise InputError(f"--workers is {workers}; give 1 to {MAX_WORKERS}")
        with terminable():
            _command(name, options)
            sys.stdout.flush()
        return 0
    except (InputError, EngineDead) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:  # a full disk, a folder that has gone, or whoever read standard output has
        if not isinstance(error, BrokenPipeError):
            tell(f"{error}; what has finished is kept, the same command goes on from it")
        if sys.stdout is not None:  # nothing may be written to it at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        print("error: out of memory; what has finished is kept, the same command goes on from it", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on where it ended", file=sys.stderr)
        return exit_code(stop)


def _command(name: str, options: Any) -> None:
    match name:
        case "status":
            print(status.text(options.folder))
        case "grade":
            _grade(options)
        case "report":
            found = _write_report(options.folder, options.grader, options.mode)
            _insert(options.write, found)
            print(tables.markdown(found), end="")
        case "plot":
            found = _write_report(options.folder, options.grader, options.mode)
            print(*plot.draw(found, options.folder / "figures"), sep="\n")
        case "browse":
            print(browse.write_page(options.folder, options.grader, options.mode))
        case "compare":
            print(compare.text(options.folder, options.other))
        case _:
            _run(options)


def _run(options: RunOptions) -> None:
    what = _with_overrides(grid.load(options.grid) if options.grid is not None else _grid_of(options), options)
    for file in options.write:
        publish.insert(file, "")  # a document that has no place for the tables is refused before the run, not behind it
    keep = options.out is not None or options.grid is not None
    kept = options.out or Path("runs") / re.sub(r"[^\w.-]+", "_", what.name)
    folder = kept if keep else Path(tempfile.mkdtemp(prefix="evaluate-"))
    started = time.perf_counter()
    try:
        run.run(what, folder)
        seconds = time.perf_counter() - started
        grade.grade(folder, workers=options.workers)
        found = _write_report(folder)
        files = plot.draw(found, folder / "figures")
        browse.write_page(folder)
        if options.results is not None:
            publish.append_records(found, what, seconds, options.results)
        if options.samples is not None:
            publish.write_samples(folder, options.samples)
        for figure in options.figure:
            figure.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(next(f for f in files if f.name.endswith("-accuracy.png")), figure)
        _insert(options.write, found)
        print(tables.markdown(found), end="")
        if keep:
            print(f"\n{folder}: report.md, report.json, figures/, samples.html", file=sys.stderr)
    finally:
        if not keep:
            shutil.rmtree(folder)


def _grid_of(options: RunOptions) -> grid.Grid:
    nano = options.task == "s1_nano"
    budgets = (NANO_BUDGETS if nano else S1_BUDGETS) if options.budgets is None else options.budgets
    waits = (NANO_WAITS if nano else S1_WAITS) if options.waits is None else options.waits
    if options.harness_arguments:
        budgets, waits = options.budgets or (), options.waits or ()
    methods = [
        *({"method": "harness", "arguments": text} for text in options.harness_arguments),
        *([{"method": "budget", "budgets": budgets}] if budgets else []),
        *([{"method": "extensions", "extensions": waits, "budget": NANO_BUDGET if nano else None}] if waits else []),
    ]
    return grid.from_values(
        {
            "name": options.task,
            "tasks": [{"name": options.task, "count": options.count, "seed": options.seed}],
            "methods": methods,
            "answer_tokens": 48 if nano else 1024,
            "engine": {"device": "cpu", "dtype": "float32"} if nano else {},
        }
    )


def _with_overrides(what: grid.Grid, options: RunOptions) -> grid.Grid:
    if options.grid is not None:
        defaults = RunOptions()
        for name in ("task", "count", "seed", "budgets", "waits", "harness_arguments"):
            if getattr(options, name) != getattr(defaults, name):
                raise InputError(f"--{name.replace('_', '-')} is given with {options.grid}; write it into the grid")
    given = {name: getattr(options, name) for name in ("device", "dtype", "max_num_seqs")}
    return msgspec.structs.replace(
        what,
        engine=what.engine | {name: value for name, value in given.items() if value is not None},
        model=options.model or what.model,
        reuse=what.reuse and not options.independent,
    )


def _grade(options: GradeOptions) -> None:
    if options.explain is not None:
        print(grade.explain(options.folder, options.explain, options.mode))
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
        grade.grade(options.folder, options.grader, options.mode, options.workers)
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
        grade.grade(options.folder, options.grader, options.mode, options.workers, Judge(model))


def _write_report(folder: Path, grader: grade.GraderName = "s1-engine", mode: Mode = "answer") -> dict[str, Any]:
    found = accuracy.report(outcomes.load(folder, grader, mode), grader, mode)
    name = grade.grades_file(folder, grader, mode).stem.replace("grades", "report")
    write_whole(folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    write_whole(folder / f"{name}.md", tables.markdown(found))
    return found


def _insert(files: Sequence[Path], found: Mapping[str, Any]) -> None:
    for file in files:
        write_whole(file, publish.insert(file, tables.summary(found)))


if __name__ == "__main__":
    sys.exit(main())
