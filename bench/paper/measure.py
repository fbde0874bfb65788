"""Numbers from the folders of steps: accuracies and differences with intervals over questions and seeds, and copies.

The interval of a mean, or of a difference, is Student's: its variance is that between questions, with seeds averaged
out, plus that between the training seeds of each side, and its degrees of freedom are Welch and Satterthwaite's. Three
seeds are few: to draw them again (bootstrap) would make intervals that are too short.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

from bench.evaluation import metrics, outcomes
from bench.evaluation.log import sample_rows
from bench.statistics import wilson
from curate.families.problem import WAIT


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Runs:
    """One condition: what each training seed's model made of each question. [seeds, questions]"""

    right: np.ndarray
    thinking: np.ndarray
    models: tuple[str, ...] = ()
    """The seeds' models, by their steps."""

    @property
    def accuracy(self) -> Estimate:
        """Of one model by Wilson, of several by `estimate`."""
        if len(self.right) == 1 and {*self.right.flat} <= {0.0, 1.0}:
            return Estimate(float(self.right.mean()), *wilson(int(self.right.sum()), self.right.size))
        found = estimate(self.right)
        return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))

    def over(self, other: "Runs") -> Estimate:
        """The paired difference on the same questions."""
        return self._less(other, self.right, other.right)

    def longer(self, other: "Runs") -> Estimate:
        """The paired difference of thinking tokens."""
        return self._less(other, self.thinking, other.thinking)

    def _less(self, other: "Runs", mine: np.ndarray, theirs: np.ndarray) -> Estimate:
        """Of the same models under two conditions seeds are paired, too."""
        return estimate(mine - theirs) if self.models == other.models else estimate(mine, theirs)

    def row(self, name: str, **more: Any) -> dict[str, Any]:
        """As JSON values."""
        seeds = [float(one) for one in self.right.mean(axis=1)]
        told = {"accuracy": asdict(self.accuracy), "seeds": seeds, "thinking": float(self.thinking.mean())}
        return {"name": name, **told, "questions": self.right.shape[1], **more}


def estimate(values: np.ndarray, other: np.ndarray | None = None) -> Estimate:
    """The mean of `values` [seeds, questions], or of its difference to `other` on the same questions."""
    sides = [values] if other is None else [values, other]
    paired = values.mean(axis=0) - (0.0 if other is None else other.mean(axis=0))
    parts = [(float(np.var(paired, ddof=1)) / len(paired), len(paired) - 1)]
    parts += [(float(np.var(side.mean(axis=1), ddof=1)) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    variance = sum(part for part, _ in parts)
    value = float(paired.mean())
    if variance == 0:
        return Estimate(value, value, value)
    freedom = variance**2 / sum(part**2 / more for part, more in parts)
    half = _student(round(freedom, 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


@cache
def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t."""

    def beyond(t: float) -> Any:
        return mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - 0.05

    return float(mpmath.findroot(beyond, (1.9, 13.0), solver="anderson"))


@cache
def cells(folder: Path) -> Mapping[str, outcomes.Cell]:
    """The conditions of an evaluation, by label."""
    return {cell.condition.label: cell for cell in outcomes.load(folder).cells}


def runs(folders: Sequence[Path], label: str) -> Runs:
    """One condition in the same evaluation of each seed's model."""
    found = [cells(folder)[label] for folder in folders]
    models = tuple(next(place.name for place in folder.parents if (place / "begun").exists()) for folder in folders)
    return Runs(np.array([cell.means for cell in found]), np.array([cell.thinking for cell in found]), models)


def together(parts: Sequence[Runs]) -> Runs:
    """The questions of several evaluations side by side."""
    right, thinking = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("right", "thinking")
    )
    return Runs(right, thinking, parts[0].models)


def curve(folders: Sequence[Path], labels: Sequence[str]) -> dict[str, Any]:
    """The points of a method's curve, and the paper's three metrics."""
    found = [runs(folders, label) for label in labels]
    conditions = [cells(folders[0])[label].condition for label in labels]
    points = [
        metrics.Point(float(r.thinking.mean()), float(r.right.mean()), c.limit, c.asks_more)
        for r, c in zip(found, conditions, strict=True)
    ]
    best = max(range(len(found)), key=lambda at: points[at].accuracy)
    slope = scaling(found)
    return {
        "points": [
            r.row(label, limit=c.limit, kept=point.kept)
            for r, c, label, point in zip(found, conditions, labels, points, strict=True)
        ],
        "control": metrics.control(points),
        "scaling": None if slope is None else asdict(slope),
        "scaling_of_all_pairs": metrics.scaling(points).value,
        "performance": asdict(found[best].accuracy),
        "best": labels[best],
        "runs": len(points),
    }


def scaling(found: Sequence[Runs]) -> Estimate | None:
    """Percentage points per doubling of thinking tokens, over all pairs of runs at least half a doubling apart; None
    where there is none. The tokens are taken as they are; the slope is then a sum over the answers, with its interval.
    """
    tokens = [math.log2(max(float(r.thinking.mean()), 1e-9)) for r in found]
    pairs = [
        (a, b) for a, b in combinations(range(len(found)), 2) if abs(tokens[b] - tokens[a]) >= metrics.SPREAD_DOUBLINGS
    ]
    if not pairs:
        return None
    slopes = [(found[b].right - found[a].right) / (tokens[b] - tokens[a]) for a, b in pairs]
    return estimate(100 * np.mean(slopes, axis=0))


def labels(folder: Path, series: str) -> list[str]:
    """The conditions of a curve, in the grid's order."""
    return [label for label, cell in cells(folder).items() if cell.condition.series == series]


def rows(folder: Path, label: str) -> Iterator[Mapping[str, Any]]:
    """The log's rows of a condition, by question."""
    found = (row for row in sample_rows(folder) if row["condition"] == label)
    return iter(sorted(found, key=lambda row: (row["problem"], row["sample"])))


def copies(folder: Path, label: str) -> list[bool]:
    """Of each thought, whether its last round, what follows a "Wait", is a copy of an earlier one."""
    found = [[part.strip() for part in row["reasoning"].split(WAIT)] for row in rows(folder, label)]
    return [len(rounds) > 1 and rounds[-1] in rounds[:-1] for rounds in found]


def read(file: Path) -> Any:
    """A JSON file."""
    return json.loads(file.read_text())
