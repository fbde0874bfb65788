"""The samples of a run as one static HTML page: questions with what decides that an answer is right, traces with forced
tokens marked, answers, verdicts.

The page loads nothing and runs no script but its own filter; every text of a data set or a model is escaped.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.evaluation.extraction import Mode
from bench.evaluation.grade import Graded, GraderName, load_grid, load_tasks, rows_with_grades
from bench.evaluation.log import read_run
from bench.evaluation.prompts import question_text
from bench.evaluation.tasks import Problem
from curate.grading.grade import AnswerKind
from curate.pages import render
from engine import InputError
from engine.model.checkpoint import resolve
from engine.text.tokenizer import Tokenizer
from engine.whole_file import write_whole


def write_page(folder: Path, grader: GraderName = "s1-engine", mode: Mode = "answer", problems: int = 50) -> Path:
    """`samples.html` of a run: the first `problems` problems of each task, under every condition. Returns the file."""
    grid, tasks = load_grid(folder), load_tasks(folder)
    decode = None
    if grid.endpoint is None:
        try:
            decode = Tokenizer.load(resolve(grid.model)).decode
        except InputError as error:
            raise InputError(f"the tokenizer of {grid.model} is needed to mark forced tokens: {error}") from error
    order = [condition.label for condition in grid.conditions()]
    samples: dict[tuple[str, str], list[tuple[Mapping[str, Any], Graded]]] = defaultdict(list)
    shown = {(task.name, problem.id) for task in tasks.values() for problem in task.problems[:problems]}
    pairs = [pair for pair in rows_with_grades(folder, grader, mode) if (pair[0]["task"], pair[0]["problem"]) in shown]
    for row, graded in sorted(pairs, key=lambda pair: (order.index(pair[0]["condition"]), pair[0]["sample"])):
        samples[row["task"], row["problem"]].append((row, graded))

    def pieces(row: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
        if decode is not None and row["token_ids"]:
            yield from marked(row["token_ids"], row["forced"], decode)
        else:
            yield "\n\n".join(filter(None, (row["reasoning"], row["answer"]))), False

    page = render(
        Path(__file__).with_name("samples.html.jinja"),
        name=read_run(folder)["about"]["name"],
        problems=problems,
        conditions=order,
        tasks=tasks.values(),
        samples=samples,
        question_text=question_text,
        judged_by=judged_by,
        said=said,
        pieces=pieces,
        tree=tree,
    )
    write_whole(folder / "samples.html", page)
    return folder / "samples.html"


def judged_by(problem: Problem) -> str:
    """What decides that an answer is right where that is not its reference; "" otherwise."""
    return {
        AnswerKind.FAMILY: f"the checker of the family {problem.family}, from the question alone",
        AnswerKind.PYTHON: f"the function {problem.family}",
    }.get(problem.kind, "")


def said(graded: Graded) -> str:
    """What a sample answered, and the rule that found it."""
    if graded.extracted is not None:
        return f"answer '{graded.extracted}' by {graded.rule}"
    if graded.rule in ("no_answer", "never_left_thinking"):
        return graded.rule.replace("_", " ")
    return f"error: {graded.detail}" if graded.rule == "error" else f"no answer by {graded.rule}"


def tree(nodes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The steps of a search, each behind the one that it goes on from, with how often the way to it has forked: a step
    that alone goes on from another stands below it, and no further in. At most 12, which a page has room for. `ends` is
    whether none goes on from it."""
    children: dict[int | None, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        children[node["parent"]].append(number)
    left = [(0, number) for number in reversed(children[None])]
    while left:
        level, number = left.pop()
        row = children[number]
        yield min(level, 12), {**nodes[number], "ends": not row}
        left += [(level + (len(row) > 1), child) for child in reversed(row)]


def marked(
    ids: Sequence[int], forced: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> Iterator[tuple[str, bool]]:
    """The text of `ids` in pieces, and whether each was forced."""
    for was, run in groupby(range(len(ids)), key=set(forced).__contains__):
        yield decode([ids[at] for at in run]), was
