"""Rows and grades of a run as numbers per task and condition: what statistics, tables and figures are made from."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from bench.evaluation.extraction import Mode
from bench.evaluation.grade import Graded, GraderName, load_grid, load_tasks, rows_with_grades
from bench.evaluation.grid import Grid
from bench.evaluation.log import read_rows
from bench.evaluation.methods import Condition
from bench.evaluation.tasks import Task
from engine import InputError


@dataclass(frozen=True)
class Outcome:
    """One sample: its verdict and its tokens. `generated` are tokens that stand in no other row."""

    graded: Graded
    thinking: int
    completion: int
    generated: int
    tries: int
    left_thinking: bool
    stop_reason: str | None
    score: float | None
    """Mean log-probability of the tokens that the model chose."""
    search: Mapping[str, Any] | None = None
    """What a search came to, as the log has it; None: there was none, or it failed."""

    @property
    def right(self) -> bool:
        """What nothing could grade counts as wrong; reports count it beside."""
        return self.graded.correct is True


@dataclass(frozen=True)
class Cell:
    """All samples of one condition on one task, by problem in the task's order and by sample index."""

    task: str
    condition: Condition
    problems: tuple[str, ...]
    groups: tuple[str, ...]
    samples: tuple[tuple[Outcome, ...], ...]
    """One tuple per problem."""

    @property
    def outcomes(self) -> list[Outcome]:
        """Every sample."""
        return [outcome for outcomes in self.samples for outcome in outcomes]

    @property
    def size(self) -> int:
        """Most samples of a problem."""
        return max(map(len, self.samples))

    @property
    def whole(self) -> list[tuple[str, str, tuple[Outcome, ...]]]:
        """Problem, group and samples where there are as many samples as of any."""
        each = zip(self.problems, self.groups, self.samples, strict=True)
        return [one for one in each if len(one[2]) == self.size]

    @property
    def means(self) -> list[float]:
        """Share right of each problem."""
        return [mean([o.right for o in outcomes]) for outcomes in self.samples]

    @property
    def thinking(self) -> list[float]:
        """Mean thinking tokens of each problem."""
        return [mean([o.thinking for o in outcomes]) for outcomes in self.samples]

    @property
    def accuracy(self) -> float:
        """avg@n: the mean of the per-problem means."""
        return mean(self.means)

    @property
    def overshoot(self) -> int:
        """Thinking tokens past the limit, of the worst sample; 0 where every sample kept to it."""
        limit = self.condition.limit
        return 0 if limit is None or self.condition.asks_more else max(0, *(o.thinking - limit for o in self.outcomes))

    @property
    def control(self) -> float | None:
        """Share of samples on the asked side of the limit; None where there is none."""
        limit, more = self.condition.limit, self.condition.asks_more
        if limit is None:
            return None
        return mean((o.thinking > limit) == more for o in self.outcomes)


@dataclass(frozen=True)
class Tokens:
    """Generated tokens of a task: as they were, and as runs of every condition by itself would have been."""

    generated: int
    independent: int


@dataclass(frozen=True)
class Results:
    """Everything a report needs. `missing` counts samples of the grid that the log does not have; `notes` are the
    tasks' own, by name."""

    model: str
    cells: tuple[Cell, ...]
    tokens: dict[str, Tokens]
    missing: int
    notes: Mapping[str, str]


_EXPORTS = ("export", "adapter")
"""Folders that every training run has."""


def called(grid: Grid) -> str:
    """The model's name: its folder's; of what a training run exported the grid's name, or else the run's."""
    if grid.endpoint is not None:
        return grid.endpoint.model
    path, adapter = Path(grid.model), grid.engine.get("adapter")
    path = path.resolve() if path.exists() else path  # a link is called what it leads to
    name = (grid.name or path.parent.name) if path.name in _EXPORTS else path.name
    return name if adapter is None else f"{name} with {'/'.join(Path(adapter).parts[-2:])}"


def load(folder: Path, grader: GraderName = "s1-engine", mode: Mode = "answer") -> Results:
    """Read a run. Raises InputError for a run without samples, and for a model that never leaves thinking."""
    grid, tasks = load_grid(folder), load_tasks(folder)
    conditions = grid.conditions()
    found: dict[tuple[str, str], dict[str, dict[int, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for row, graded in rows_with_grades(folder, grader, mode):
        found[row["task"], row["condition"]][row["problem"]][row["sample"]] = Outcome(
            graded,
            row["thinking_tokens"],
            row["completion_tokens"],
            row["generated"],
            row["tries"],
            row["left_thinking"],
            row["stop_reason"],
            row["mean_logprob"],
            row.get("search"),
        )
    cells = tuple(
        _cell(task, condition, found[task.name, condition.label])
        for task in tasks.values()
        for condition in conditions
        if found[task.name, condition.label]
    )
    if not cells:
        raise InputError(f"{folder}: holds no samples; run the grid first")
    model = called(grid)
    for cell in cells:
        if not cell.condition.tries and not any(o.left_thinking for o in cell.outcomes):
            raise InputError(
                f"task {cell.task}, condition {cell.condition.label!r}: none of the {len(cell.outcomes)} responses of "
                f"{model} ever left thinking, so none has an answer; give a budget or method auto, which close it, or "
                "check that thinking_format is the model's"
            )
    wanted = sum(len(task.problems) for task in tasks.values()) * sum(c.samples for c in conditions)
    return Results(
        model,
        cells,
        _tokens(folder),
        missing=wanted - sum(len(cell.outcomes) for cell in cells),
        notes={task.name: task.note for task in tasks.values()},
    )


def _cell(task: Task, condition: Condition, found: dict[str, dict[int, Outcome]]) -> Cell:
    problems = [problem for problem in task.problems if problem.id in found]
    samples = tuple(tuple(o for _, o in sorted(found[problem.id].items())) for problem in problems)
    return Cell(task.name, condition, tuple(p.id for p in problems), tuple(p.group for p in problems), samples)


def _tokens(folder: Path) -> dict[str, Tokens]:
    generated, independent = Counter[str](), Counter[str]()
    for row in read_rows(folder):
        generated[row["task"]] += row["generated"]
        if not row["condition"].startswith("trace "):
            # A rejected sample's discarded draws, and a search's tree, belong to their methods with and without reuse.
            own = row["source"] in ("rejection", "search")
            independent[row["task"]] += row["generated"] if own else row["completion_tokens"]
    return {task: Tokens(generated[task], independent[task]) for task in sorted(generated)}


def series_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by curve, in the grid's order; budgets and "Wait"s together are the curve `budget forcing`."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.condition.series, []).append(cell)
    if "budget" in found and "extensions Wait" in found:
        found["budget forcing"] = [*found["budget"], *found["extensions Wait"]]
    return found
