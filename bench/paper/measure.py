"""Numbers from the folders of steps: accuracies and differences with intervals over questions and seeds, and loops."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.evaluation import metrics, outcomes
from bench.evaluation.log import sample_rows
from bench.statistics import wilson
from curate.families.problem import WAIT

DRAWS = 10_000
"""As in the paper."""


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of shares, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, otherwise 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Runs:
    """One condition: what each training seed's model made of each question. [seeds, questions]"""

    right: np.ndarray
    thinking: np.ndarray

    @property
    def accuracy(self) -> Estimate:
        """Of one model by Wilson; of several, drawn again over seeds and questions at once."""
        if len(self.right) == 1:
            return Estimate(float(self.right.mean()), *wilson(int(self.right.sum()), self.right.size))
        return resampled(self.right)

    def over(self, other: "Runs") -> Estimate:
        """The paired difference on the same questions."""
        return resampled(self.right, other.right)

    def row(self, name: str, **more: Any) -> dict[str, Any]:
        """As JSON values."""
        seeds = [float(one) for one in self.right.mean(axis=1)]
        told = {"accuracy": asdict(self.accuracy), "seeds": seeds, "thinking": float(self.thinking.mean())}
        return {"name": name, **told, "questions": self.right.shape[1], **more}


def resampled(right: np.ndarray, other: np.ndarray | None = None, draws: int = DRAWS) -> Estimate:
    """The mean of `right`, or of its difference to `other` [seeds, questions], with a percentile interval over both:
    questions are drawn with replacement, the same for both sides, and so are the training seeds of each side."""
    random, sides = np.random.default_rng(0), [right] if other is None else [right, other]
    value = float(right.mean() - (0.0 if other is None else other.mean()))
    found = np.empty(draws)
    for draw in range(draws):
        questions = random.integers(0, right.shape[1], right.shape[1])
        means = [side[random.integers(0, len(side), len(side))].mean(axis=0)[questions].mean() for side in sides]
        found[draw] = means[0] - (means[1] if len(means) > 1 else 0.0)
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


@cache
def cells(folder: Path) -> Mapping[str, outcomes.Cell]:
    """The conditions of an evaluation, by label."""
    return {cell.condition.label: cell for cell in outcomes.load(folder).cells}


def runs(folders: Sequence[Path], label: str) -> Runs:
    """One condition in the same evaluation of each seed's model."""
    found = [cells(folder)[label] for folder in folders]
    return Runs(np.array([cell.means for cell in found]), np.array([cell.thinking for cell in found]))


def together(parts: Sequence[Runs]) -> Runs:
    """The questions of several evaluations side by side."""
    return Runs(*(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("right", "thinking")))


def curve(folders: Sequence[Path], labels: Sequence[str]) -> dict[str, Any]:
    """The points of a method's curve, and the paper's three metrics with their intervals over questions."""
    found = [runs(folders, label) for label in labels]
    conditions = [cells(folders[0])[label].condition for label in labels]
    points = [
        metrics.Point(float(r.thinking.mean()), float(r.right.mean()), c.limit, c.asks_more)
        for r, c in zip(found, conditions, strict=True)
    ]
    spread = metrics.spread(
        np.array([r.right.mean(axis=0) for r in found]), np.array([r.thinking.mean(axis=0) for r in found])
    )
    return {
        "points": [
            r.row(label, limit=c.limit, kept=point.kept)
            for r, c, label, point in zip(found, conditions, labels, points, strict=True)
        ],
        "control": metrics.control(points),
        "scaling": metrics.scaling(points, metrics.SPREAD_DOUBLINGS).value,
        "scaling_of_all_pairs": metrics.scaling(points).value,
        "scaling_interval": spread.scaling,
        "performance": metrics.performance(points),
        "performance_interval": spread.performance,
        "runs": len(points),
    }


def labels(folder: Path, series: str) -> list[str]:
    """The conditions of a curve, in the grid's order."""
    return [label for label, cell in cells(folder).items() if cell.condition.series == series]


def rows(folder: Path, label: str) -> Iterator[Mapping[str, Any]]:
    """The log's rows of a condition."""
    return (row for row in sample_rows(folder) if row["condition"] == label)


def in_loops(folder: Path, label: str) -> float:
    """Share of the thoughts whose last round, what follows a "Wait", is a copy of an earlier one."""
    found = [[part.strip() for part in row["reasoning"].split(WAIT)] for row in rows(folder, label)]
    return float(np.mean([len(rounds) > 1 and rounds[-1] in rounds[:-1] for rounds in found]))


def read(file: Path) -> Any:
    """A JSON file."""
    return json.loads(file.read_text())
