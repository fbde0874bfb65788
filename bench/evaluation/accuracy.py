"""The report of a run: every figure with its interval, as JSON values. Tables and plots are views of them.

Nothing in it depends on when or in which order samples finished, so a run that was killed and resumed gives the same
bytes as one that was not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.evaluation import metrics
from bench.evaluation.estimators import best_of_k, expected_max, first_k_majority, majority_at_k, pass_at_k
from bench.evaluation.metrics import Point
from bench.evaluation.outcomes import Cell, Outcome, Results, series_of
from bench.statistics import bootstrap, discordant, permutation_test, sampling_interval, sign_test, wilson

_DIGITS = 6


def report(results: Results, grader: str, mode: str) -> dict[str, Any]:
    """The report as JSON values; shares in [0, 1], tokens as counts, slopes in percentage points per doubling."""
    tasks = []
    for name in dict.fromkeys(cell.task for cell in results.cells):
        cells = [cell for cell in results.cells if cell.task == name]
        series = series_of(cells)
        rows = []
        for curve in (curve for label, curve in series.items() if label != "budget forcing"):
            rows += [condition(before, cell) for before, cell in zip([None, *curve], curve, strict=False)]
        order = [cell.condition.label for cell in cells]
        rows.sort(key=lambda row: order.index(row["condition"]))
        for cell in cells:
            against_greedy(cell, cells, rows[order.index(cell.condition.label)])
        tokens = results.tokens[name]
        tasks.append(
            {
                "task": name,
                "problems": max(len(cell.problems) for cell in cells),
                "note": results.notes[name],
                "conditions": rows,
                "methods": [method(label, curve) for label, curve in series.items() if len(curve) > 1],
                "tokens": {"generated": tokens.generated, "independent": tokens.independent, "ratio": tokens.ratio},
            }
        )
    head = {"model": results.model, "grader": grader, "mode": mode, "missing_samples": results.missing}
    return _rounded({**head, "tasks": tasks})


def condition(before: Cell | None, cell: Cell) -> dict[str, Any]:
    """One point: accuracy with its intervals, tokens, and what changed since the point before it on its curve."""
    n = max(len(outcomes) for outcomes in cell.samples)
    single = n == 1
    right = [o.right for o in cell.outcomes]
    interval = wilson(sum(right), len(right)) if single else _interval(cell.means)
    kind = "wilson" if single or _alike(cell.means) else "cluster_bootstrap"
    values: dict[str, Any] = {
        "condition": cell.condition.label,
        "series": cell.condition.series,
        "limit": cell.condition.limit,
        "problems": len(cell.problems),
        "samples": n,
        "accuracy": cell.accuracy,
        "interval": {"kind": kind, "low": interval[0], "high": interval[1]},
        "sampling_interval": sampling_interval([[float(o.right) for o in outcomes] for outcomes in cell.samples]),
        "thinking_tokens": cell.mean_thinking,
        "thinking_interval": bootstrap(cell.thinking),
        "max_thinking_tokens": max(o.thinking for o in cell.outcomes),
        "completion_tokens": sum(o.completion for o in cell.outcomes) / len(cell.outcomes),
        "control": cell.control,
        "overshoot": cell.overshoot,
        **cell.counts(),
        "groups": _groups(cell),
        "change": None if before is None else change(before, cell),
        "rules": dict(sorted(_rules(cell).items())),
    }
    if cell.condition.tries:
        values["tries"] = sum(o.tries for o in cell.outcomes) / len(cell.outcomes)
        values["generated_tokens"] = sum(o.generated for o in cell.outcomes) / len(cell.outcomes)
    if not single:
        values["at_k"] = [at_k(cell, k) for k in _powers(n)]
    return values


def change(before: Cell, after: Cell) -> dict[str, Any]:
    """What two conditions differ by on the problems that both have, paired."""
    both = [p for p in before.problems if p in set(after.problems)]
    old, new = (dict(zip(cell.problems, cell.means, strict=True)) for cell in (before, after))
    differences = [new[p] - old[p] for p in both]
    if not differences:
        return {"of": before.condition.label, "problems": 0}
    values: dict[str, Any] = {
        "of": before.condition.label,
        "problems": len(both),
        **_paired(differences),
        "p_change": permutation_test(differences),
        "p_fell": None,
    }
    if all(v in (0.0, 1.0) for v in (*old.values(), *new.values())):
        values["p_fell"] = sign_test(*discordant([old[p] == 1 for p in both], [new[p] == 1 for p in both]))
    return values


def at_k(cell: Cell, k: int) -> dict[str, Any]:
    """What k of n samples come to, over problems with all n: pass, majority, best of k, and what they cost.

    `unique_tokens`: all that k samples generate; `path_tokens`: the longest of them, which is what one waits for.
    """
    n = max(len(outcomes) for outcomes in cell.samples)
    whole = [outcomes for outcomes in cell.samples if len(outcomes) == n]
    passed = [pass_at_k(sum(o.right for o in s), n, k) for s in whole]
    voted = [majority_at_k([o.graded.vote for o in s], [o.right for o in s], k) for s in whole]
    first = [first_k_majority([o.graded.vote for o in s], [o.right for o in s], k) for s in whole]
    return {
        "k": k,
        "pass": _mean(passed),
        "majority": _mean(voted),
        "majority_interval": _interval(voted),
        "best_of": _best(whole, k),
        "first_k_majority": _mean([float(v) for v in first]),
        "unique_tokens": k * _mean([_mean([o.completion for o in s]) for s in whole]),
        "path_tokens": _mean([expected_max([o.completion for o in s], k) for s in whole]),
        "gain": _paired([v - sum(o.right for o in s) / len(s) for v, s in zip(voted, whole, strict=True)]),
        "groups": _voted_groups(cell, n, k),
    }


def against_greedy(cell: Cell, cells: Sequence[Cell], row: dict[str, Any]) -> None:
    """Adds to each `at_k` what majority gains over one greedy sample at the same budget, where the grid has that."""
    asked = replace(cell.condition.params, temperature=0.0, logprobs=None)
    same = [other for other in cells if other.condition.params == asked and len(other.problems) == len(cell.problems)]
    if not same or "at_k" not in row or cell.condition.params.temperature == 0:
        return
    greedy = dict(zip(same[0].problems, same[0].means, strict=True))
    n = max(len(outcomes) for outcomes in cell.samples)
    whole = [(p, outcomes) for p, outcomes in zip(cell.problems, cell.samples, strict=True) if len(outcomes) == n]
    for entry in row["at_k"]:
        differences = [
            majority_at_k([o.graded.vote for o in s], [o.right for o in s], entry["k"]) - greedy[p] for p, s in whole
        ]
        entry["gain_over_greedy"] = _paired(differences)


def method(label: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Control, Scaling and Performance of one curve."""
    points = [
        Point(cell.mean_thinking, cell.accuracy, cell.condition.limit, cell.condition.asks_more) for cell in cells
    ]
    shared = set.intersection(*(set(cell.problems) for cell in cells))
    limited = [cell for cell in cells if cell.control is not None]
    every, wide = metrics.scaling(points), metrics.scaling(points, metrics.SPREAD_DOUBLINGS)
    values: dict[str, Any] = {
        "method": label,
        "runs": len(cells),
        "control": metrics.control(points) if limited else None,
        "control_of_samples": _mean([float(cell.control or 0) for cell in limited]) if limited else None,
        "worst_overshoot": max((cell.overshoot for cell in limited), default=0),
        "scaling": every.value,
        "scaling_pairs": every.pairs,
        "scaling_spread": wide.value,
        "scaling_spread_pairs": wide.pairs,
        "scaling_interval": None,
        "performance": metrics.performance(points),
        "performance_interval": None,
        "performance_bias": None,
        "accuracy_at_longest": metrics.at_longest(points),
    }
    if shared:
        accuracy, tokens = (np.array([_on(cell, shared, what) for cell in cells]) for what in ("means", "thinking"))
        spread = metrics.spread(accuracy, tokens)
        best = max(cells, key=lambda cell: cell.accuracy)
        flat = all(_alike(cell.means) for cell in cells)  # resampling says nothing where no problem differs
        values |= {
            "scaling_interval": None if flat else spread.scaling,
            "performance_interval": _interval(best.means) if _alike(best.means) else spread.performance,
            "performance_bias": None if flat else spread.performance_bias,
        }
    return values


def _interval(means: Sequence[float]) -> tuple[float, float]:
    """Bootstrap over problems; where it has no width because all were right or all wrong, Wilson's over problems."""
    return wilson(int(sum(means)), len(means)) if _alike(means) else bootstrap(means)


def _alike(means: Sequence[float]) -> bool:
    return set(means) in ({0.0}, {1.0})


def _on(cell: Cell, problems: set[str], what: str) -> list[float]:
    values = getattr(cell, what)
    return [value for problem, value in zip(cell.problems, values, strict=True) if problem in problems]


def _best(samples: Sequence[Sequence[Outcome]], k: int) -> float | None:
    """Best of k by mean log-probability, among those with an answer; None where it was not asked for."""
    if any(o.score is None for s in samples for o in s):
        return None
    scores = [[-math.inf if o.graded.vote is None else o.score or 0.0 for o in s] for s in samples]
    return _mean([best_of_k(found, [o.right for o in s], k) for found, s in zip(scores, samples, strict=True)])


def _voted_groups(cell: Cell, n: int, k: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[Sequence[Outcome]]] = defaultdict(list)
    for group, outcomes in zip(cell.groups, cell.samples, strict=True):
        if len(outcomes) == n:
            found[group].append(outcomes)
    if len(found) < 2:
        return {}
    return {
        group: {
            "one": _mean([sum(o.right for o in s) / n for s in samples]),
            "majority": _mean([majority_at_k([o.graded.vote for o in s], [o.right for o in s], k) for s in samples]),
        }
        for group, samples in found.items()
    }


def _groups(cell: Cell) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for group, mean in zip(cell.groups, cell.means, strict=True):
        found[group].append(mean)
    return {group: _mean(values) for group, values in found.items()} if len(found) > 1 else {}


def _rules(cell: Cell) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for outcome in cell.outcomes:
        found[outcome.graded.rule] += 1
    return found


def _powers(n: int) -> list[int]:
    powers = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return powers if powers[-1] == n else [*powers, n]


def _paired(differences: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(differences)
    return {"difference": _mean(differences), "low": low, "high": high}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounded(value: Any) -> Any:
    """Six digits behind the point: what comes after them is the order of additions."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
