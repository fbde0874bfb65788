"""Rows and grades of a run as numbers per task and condition: what statistics, tables and figures are made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.evaluation.extraction import Mode
from bench.evaluation.grade import Graded, GraderName, load_grid, load_tasks, rows_with_grades
from bench.evaluation.log import read_rows
from bench.evaluation.methods import Condition
from bench.evaluation.tasks import Task
from engine import InputError


@dataclass(frozen=True)
class Outcome:
    """One sample: its verdict and its tokens. `generated` are tokens that stand in no other row."""

    problem: str
    sample: int
    graded: Graded
    thinking: int
    completion: int
    generated: int
    tries: int
    left_thinking: bool
    stop_reason: str | None
    score: float | None
    """Mean log-probability of the tokens that the model chose."""

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
    def means(self) -> list[float]:
        """Share right of each problem."""
        return [sum(o.right for o in outcomes) / len(outcomes) for outcomes in self.samples]

    @property
    def thinking(self) -> list[float]:
        """Mean thinking tokens of each problem."""
        return [sum(o.thinking for o in outcomes) / len(outcomes) for outcomes in self.samples]

    @property
    def accuracy(self) -> float:
        """avg@n: the mean of the per-problem means."""
        return sum(self.means) / len(self.means)

    @property
    def mean_thinking(self) -> float:
        """Average thinking tokens."""
        return sum(self.thinking) / len(self.thinking)

    @property
    def overshoot(self) -> int:
        """Thinking tokens past the limit, of the worst sample; 0 where every sample kept to it."""
        limit = self.condition.limit
        if limit is None or self.condition.asks_more:
            return 0
        return max(0, max(o.thinking for o in self.outcomes) - limit)

    @property
    def control(self) -> float | None:
        """Share of samples on the asked side of the limit; None where there is none."""
        limit = self.condition.limit
        if limit is None:
            return None
        more = self.condition.asks_more
        kept = [o.thinking > limit if more else o.thinking <= limit for o in self.outcomes]
        return sum(kept) / len(kept)

    def counts(self) -> Counter[str]:
        """How often each thing happened that a reader should know of."""
        found: Counter[str] = Counter()
        for o in self.outcomes:
            found["forced_ends"] += o.stop_reason in ("budget", "max_tokens", "context")
            found["no_answer"] += o.graded.extracted is None
            found["no_vote"] += o.graded.vote is None
            found["ungraded"] += o.graded.correct is None
            found["errors"] += o.graded.rule == "error"
            found["never_left_thinking"] += not o.left_thinking
        return found


@dataclass(frozen=True)
class Tokens:
    """Generated tokens of a task: as they were, and as runs of every condition by itself would have been."""

    generated: int
    independent: int

    @property
    def ratio(self) -> float:
        """How many times fewer were generated."""
        return self.independent / self.generated if self.generated else 1.0


@dataclass(frozen=True)
class Results:
    """Everything a report needs. `missing` counts samples of the grid that the log does not have; `notes` are the
    tasks' own, by name."""

    model: str
    cells: tuple[Cell, ...]
    tokens: dict[str, Tokens]
    missing: int
    notes: Mapping[str, str]


def load(folder: Path, grader: GraderName = "s1-engine", mode: Mode = "answer") -> Results:
    """Read a run. Raises InputError for a run without samples, and for a model that never leaves thinking."""
    grid, tasks = load_grid(folder), load_tasks(folder)
    conditions = grid.conditions()
    found: dict[tuple[str, str], dict[str, dict[int, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for row, graded in rows_with_grades(folder, grader, mode):
        outcome = Outcome(
            row["problem"],
            row["sample"],
            graded,
            row["thinking_tokens"],
            row["completion_tokens"],
            row["generated"],
            row["tries"],
            row["left_thinking"],
            row["stop_reason"],
            row["mean_logprob"],
        )
        found[row["task"], row["condition"]][row["problem"]][row["sample"]] = outcome
    cells = []
    for task in tasks.values():
        cells += [
            _cell(task, condition, found[task.name, condition.label])
            for condition in conditions
            if found[task.name, condition.label]
        ]
    if not cells:
        raise InputError(f"{folder}: holds no samples; run the grid first")
    model = grid.endpoint.model if grid.endpoint is not None else Path(grid.model).name
    for cell in cells:
        _refuse_endless(cell, model)
    total = sum(len(task.problems) for task in tasks.values()) * sum(c.samples for c in conditions)
    left = total - sum(len(cell.outcomes) for cell in cells)
    return Results(model, tuple(cells), _tokens(folder), left, {task.name: task.note for task in tasks.values()})


def _cell(task: Task, condition: Condition, found: dict[str, dict[int, Outcome]]) -> Cell:
    problems = [problem for problem in task.problems if problem.id in found]
    samples = tuple(tuple(o for _, o in sorted(found[problem.id].items())) for problem in problems)
    ids, groups = tuple(p.id for p in problems), tuple(p.group for p in problems)
    return Cell(task.name, condition, ids, groups, samples)


def _refuse_endless(cell: Cell, model: str) -> None:
    if not cell.condition.tries and not any(o.left_thinking for o in cell.outcomes):
        raise InputError(
            f"task {cell.task}, condition {cell.condition.label!r}: none of the {len(cell.outcomes)} responses of "
            f"{model} ever left thinking, so none has an answer; give a budget or method auto, which close it, or "
            "check that thinking_format is the model's"
        )


def _tokens(folder: Path) -> dict[str, Tokens]:
    generated: Counter[str] = Counter()
    independent: Counter[str] = Counter()
    for row in read_rows(folder):
        generated[row["task"]] += row["generated"]
        if not row["condition"].startswith("trace "):
            # A rejected sample's discarded draws belong to its method, with and without reuse.
            independent[row["task"]] += row["generated"] if row["source"] == "rejection" else row["completion_tokens"]
    return {task: Tokens(generated[task], independent[task]) for task in sorted(generated)}


def series_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by curve, in the grid's order; budgets and "Wait"s together are the curve `budget forcing`."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.condition.series, []).append(cell)
    both = [*found.get("budget", []), *found.get("extensions Wait", [])]
    if "budget" in found and "extensions Wait" in found:
        found["budget forcing"] = both
    return found
