"""The report of a run: every figure with its interval, as JSON values. Tables and plots are views of them.

Nothing in it depends on when or in which order samples finished, so a run that was killed and resumed gives the same
bytes as one that was not.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean as mean
from typing import Any

import numpy as np

from bench.evaluation import metrics, search_report
from bench.evaluation.estimators import best_of_k, expected_max, first_k_majority, majority_at_k, pass_at_k
from bench.evaluation.outcomes import Cell, Outcome, Results, series_of
from bench.statistics import bootstrap, discordant, permutation_test, sampling_interval, sign_test, wilson


def report(results: Results, grader: str, mode: str) -> dict[str, Any]:
    """The report as JSON values; shares in [0, 1], tokens as counts, slopes in percentage points per doubling."""
    tasks = []
    for name in dict.fromkeys(cell.task for cell in results.cells):
        cells = [cell for cell in results.cells if cell.task == name]
        series = series_of(cells)
        before = {
            cell.condition.label: other
            for label, curve in series.items()
            if label != "budget forcing"
            for other, cell in pairwise(curve)
        }
        tokens = results.tokens[name]
        costs = search_report.costs(cells)
        tasks.append(
            {
                "task": name,
                "problems": max(len(cell.problems) for cell in cells),
                "note": results.notes[name],
                "conditions": [
                    condition(before.get(cell.condition.label), cell, cells) | searched(cell, cells, costs)
                    for cell in cells
                ],
                "methods": [
                    method(label, curve)
                    for label, curve in series.items()
                    if len(curve) > 1 and curve[0].condition.search is None  # whose limit is one path's
                ],
                "tokens": {
                    **vars(tokens),
                    "ratio": tokens.independent / tokens.generated if tokens.generated else 1.0,
                },
            }
        )
    head = {"model": results.model, "grader": grader, "mode": mode, "missing_samples": results.missing}
    # Six digits behind the point: what comes after them is the order of additions.
    return json.loads(json.dumps({**head, "tasks": tasks}), parse_float=lambda digits: round(float(digits), 6))


def condition(before: Cell | None, cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    """One point: accuracy with its intervals, tokens, and what changed since the point before it on its curve.

    `cells` are those of its task, among which a greedy sample at the same budget is looked for.
    """
    outcomes, means, asked = cell.outcomes, cell.means, cell.condition
    exact = cell.size == 1 or _alike(means)
    low, high = wilson(int(sum(means)), len(means)) if exact else bootstrap(means)
    powers = {2**i for i in range(cell.size.bit_length())}
    tried = {"tries": mean(o.tries for o in outcomes), "generated_tokens": mean(o.generated for o in outcomes)}
    return {
        "condition": asked.label,
        "series": asked.series,
        "limit": asked.limit,
        "problems": len(cell.problems),
        "samples": cell.size,
        "accuracy": cell.accuracy,
        "interval": {"kind": "wilson" if exact else "cluster_bootstrap", "low": low, "high": high},
        "sampling_interval": sampling_interval([[float(o.right) for o in samples] for samples in cell.samples]),
        "thinking_tokens": mean(cell.thinking),
        "thinking_interval": bootstrap(cell.thinking),
        "max_thinking_tokens": max(o.thinking for o in outcomes),
        "completion_tokens": mean([o.completion for o in outcomes]),
        "control": cell.control,
        "overshoot": cell.overshoot,
        "forced_ends": sum(o.stop_reason in ("budget", "max_tokens", "context") for o in outcomes),
        "no_answer": sum(o.graded.extracted is None for o in outcomes),
        "no_vote": sum(o.graded.vote is None for o in outcomes),
        "ungraded": sum(o.graded.correct is None for o in outcomes),
        "errors": sum(o.graded.rule == "error" for o in outcomes),
        "never_left_thinking": sum(not o.left_thinking for o in outcomes),
        "groups": {group: mean(found) for group, found in _by_group(cell.groups, means).items()},
        "change": None if before is None else change(before, cell),
        "rules": dict(sorted(Counter(o.graded.rule for o in outcomes).items())),
        **(tried if asked.tries else {}),
        **(
            {"at_k": [at_k(cell, k, _greedy(cell, cells)) for k in sorted({*powers, cell.size})]}
            if cell.size > 1
            else {}
        ),
    }


def searched(cell: Cell, cells: Sequence[Cell], costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What a task with searches tells of each condition besides: its costs and, of a search, what it came to and what
    it is worth over a greedy sample that costs about as much. Empty where there are no searches."""
    if not costs:
        return {}
    cost = {"cost": costs[cell.condition.label]}
    if cell.condition.search is None:
        return cost
    other = search_report.beside(cell, cells, costs)
    return cost | {"search": search_report.searched(cell) | {"over": None if other is None else change(other, cell)}}


def change(before: Cell, after: Cell) -> dict[str, Any]:
    """What two conditions differ by on the problems that both have, paired."""
    old, new = (dict(zip(cell.problems, cell.means, strict=True)) for cell in (before, after))
    both = [p for p in old if p in new]
    if not both:
        return {"of": before.condition.label, "problems": 0}
    differences = [new[p] - old[p] for p in both]
    sure = {*old.values(), *new.values()} <= {0.0, 1.0}
    return {
        "of": before.condition.label,
        "problems": len(both),
        "before": mean([old[p] for p in both]),
        "after": mean([new[p] for p in both]),
        **_paired(differences),
        "p_change": permutation_test(differences),
        "p_fell": sign_test(*discordant([old[p] == 1 for p in both], [new[p] == 1 for p in both])) if sure else None,
    }


def at_k(cell: Cell, k: int, greedy: Mapping[str, float] | None) -> dict[str, Any]:
    """What k of n samples come to, over problems with all n: pass, majority, best of k, and what they cost.

    `unique_tokens`: all that k samples generate; `path_tokens`: the longest of them, which is what one waits for.
    `greedy`: shares right by problem, over which the gain is told too.
    """
    problems, groups, whole = zip(*cell.whole, strict=True)
    rights = [[o.right for o in s] for s in whole]
    votes = [[o.graded.vote for o in s] for s in whole]
    ones = [mean(right) for right in rights]
    voted = [majority_at_k(vote, right, k) for vote, right in zip(votes, rights, strict=True)]
    more = None if greedy is None else [v - greedy[p] for p, v in zip(problems, voted, strict=True)]
    return {
        "k": k,
        "pass": mean([pass_at_k(sum(right), cell.size, k) for right in rights]),
        "majority": mean(voted),
        "majority_interval": _interval(voted),
        "best_of": _best(whole, k),
        "first_k_majority": mean(first_k_majority(vote, right, k) for vote, right in zip(votes, rights, strict=True)),
        "unique_tokens": k * mean([mean([o.completion for o in s]) for s in whole]),
        "path_tokens": mean([expected_max([o.completion for o in s], k) for s in whole]),
        "gain": _paired([v - one for v, one in zip(voted, ones, strict=True)]),
        "groups": {
            group: {"one": mean([one for one, _ in found]), "majority": mean([v for _, v in found])}
            for group, found in _by_group(groups, zip(ones, voted, strict=True)).items()
        },
        **({} if more is None else {"gain_over_greedy": _paired(more)}),
    }


def _greedy(cell: Cell, cells: Sequence[Cell]) -> dict[str, float] | None:
    """Shares right of one greedy sample at the same budget, where the grid has that."""
    asked = replace(cell.condition.params, temperature=0.0, logprobs=None)
    same = [other for other in cells if other.condition.params == asked and len(other.problems) == len(cell.problems)]
    return (
        dict(zip(same[0].problems, same[0].means, strict=True)) if same and cell.condition.params.temperature else None
    )


def method(label: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Control, Scaling and Performance of one curve."""
    points = [
        metrics.Point(mean(cell.thinking), cell.accuracy, cell.condition.limit, cell.condition.asks_more)
        for cell in cells
    ]
    shared = set.intersection(*(set(cell.problems) for cell in cells))
    limited = [cell for cell in cells if cell.control is not None]
    every, wide = metrics.scaling(points), metrics.scaling(points, metrics.SPREAD_DOUBLINGS)
    best = max(cells, key=lambda cell: cell.accuracy)
    spread = metrics.spread(_on(shared, cells, "means"), _on(shared, cells, "thinking")) if shared else None
    # Resampling says nothing where no problem differs.
    telling = None if all(_alike(cell.means) for cell in cells) else spread
    return {
        "method": label,
        "runs": len(cells),
        "control": metrics.control(points) if limited else None,
        "control_of_samples": mean([float(cell.control or 0) for cell in limited]) if limited else None,
        "worst_overshoot": max((cell.overshoot for cell in limited), default=0),
        "scaling": every.value,
        "scaling_pairs": every.pairs,
        "scaling_spread": wide.value,
        "scaling_spread_pairs": wide.pairs,
        "scaling_interval": telling and telling.scaling,
        "performance": metrics.performance(points),
        "performance_interval": spread and (_interval(best.means) if _alike(best.means) else spread.performance),
        "performance_bias": telling and telling.performance_bias,
        "accuracy_at_longest": metrics.at_longest(points),
    }


def _interval(means: Sequence[float]) -> tuple[float, float]:
    """Bootstrap over problems; where it has no width because all were right or all wrong, Wilson's over problems."""
    return wilson(int(sum(means)), len(means)) if _alike(means) else bootstrap(means)


def _alike(means: Sequence[float]) -> bool:
    return set(means) in ({0.0}, {1.0})


def _on(problems: set[str], cells: Sequence[Cell], what: str) -> np.ndarray:
    """[cells, problems] of the property `what`."""
    return np.array(
        [
            [value for p, value in zip(cell.problems, getattr(cell, what), strict=True) if p in problems]
            for cell in cells
        ]
    )


def _best(samples: Sequence[Sequence[Outcome]], k: int) -> float | None:
    """Best of k by mean log-probability, among those with an answer; None where it was not asked for."""
    if any(o.score is None for s in samples for o in s):
        return None
    scores = [[-math.inf if o.graded.vote is None else o.score or 0.0 for o in s] for s in samples]
    return mean([best_of_k(found, [o.right for o in s], k) for found, s in zip(scores, samples, strict=True)])


def _by_group(groups: Iterable[str], values: Iterable[Any]) -> dict[str, list[Any]]:
    """The values of each group; none where there is one group only."""
    found = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        found[group].append(value)
    return found if len(found) > 1 else {}


def _paired(differences: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(differences)
    return {"difference": mean(differences), "low": low, "high": high}
