"""What searches came to and what they cost, beside the best greedy sample with budget or "Wait" at no more cost."""

from collections.abc import Sequence
from statistics import fmean as mean
from typing import Any

from bench.evaluation.outcomes import Cell


def costs(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """By label, mean costs per problem: unique tokens, tokens of the longest path, the reward model's, and operations.

    A token costs two operations for each parameter of the model that computes it; prompts are left out, as they are in
    unique tokens. Empty where the cells hold no search, from which the model's size is known.
    """
    size = next((o.search["parameters"]["policy"] for c in cells for o in c.outcomes if o.search is not None), None)
    return {} if size is None else {cell.condition.label: _cost(cell, size) for cell in cells}


def _cost(cell: Cell, parameters: int) -> dict[str, float]:
    """Of all samples of a problem together. A search that failed has its unique tokens alone."""
    searched = cell.condition.search is not None
    per = [[o.generated if searched else o.completion * o.tries for o in samples] for samples in cell.samples]
    found = [o.search for o in cell.outcomes if o.search is not None]
    unique = mean(map(sum, per))
    longest = mean(max(o.completion for o in samples) for samples in cell.samples)
    return {
        "unique_tokens": unique,
        "path_tokens": mean(one["path_tokens"] for one in found) if found else longest,
        "reward_tokens": mean(one["reward_tokens"]["computed"] for one in found) if found else 0.0,
        "reward_tokens_reused": mean(one["reward_tokens"]["reused"] for one in found) if found else 0.0,
        "flops": mean(one["flops"] for one in found) if found else 2.0 * parameters * unique,
    }


def beside(cell: Cell, cells: Sequence[Cell], cost: dict[str, dict[str, float]]) -> Cell | None:
    """The best greedy condition, with budgets or "Wait"s, that draws no more unique tokens than a search; of equal ones
    the first, None where the grid has none."""
    mine = cost[cell.condition.label]["unique_tokens"]
    alone = [
        other
        for other in cells
        if other.condition.search is None
        and other.condition.params.greedy
        and other.size == 1
        and other.condition.series.startswith(("budget", "extensions", "none"))
        and set(other.problems) & set(cell.problems)
        and cost[other.condition.label]["unique_tokens"] <= mine
    ]

    return max(alone, key=lambda other: other.accuracy, default=None)


def searched(cell: Cell) -> dict[str, Any]:
    """What only a search has: its leaves, its nodes, and how it chose, as means over problems."""
    found = [o.search for o in cell.outcomes if o.search is not None]
    return {
        "size": cell.condition.search.size if cell.condition.search else 0,
        "failed": len(cell.outcomes) - len(found),
        "leaves": mean(len(one["leaves"]) for one in found) if found else 0.0,
        "nodes": mean(len(one["nodes"]) for one in found) if found else 0.0,
    }
