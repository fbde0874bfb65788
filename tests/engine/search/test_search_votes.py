"""Votes and the rules that end them early: exhaustive on short sequences, and against integrals and direct counts."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.search.votes import (
    adaptive_stop,
    best,
    borda,
    counts,
    decided,
    majority,
    shortest_of,
    totals,
    unanimous_window,
    weighted,
)

INF, NAN = math.inf, math.nan
answers = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12)


def same_value(one: str, other: str) -> bool:
    return float(one) == float(other)


@given(answers)
def test_a_majority_is_what_counter_says(votes):
    voting = [vote for vote in votes if vote is not None]
    assert majority(votes) == (Counter(voting).most_common(1)[0][0] if voting else None)
    assert counts(votes) == list(Counter(voting).values())


@given(answers, st.data())
def test_a_weighted_vote_is_the_heaviest_answer(votes, data):
    weights = data.draw(st.lists(st.integers(-8, 8), min_size=len(votes), max_size=len(votes)))
    sums: dict[str, int] = {}
    for vote, weight in zip(votes, weights, strict=True):
        if vote is not None:
            sums[vote] = sums.get(vote, 0) + weight
    winner = None
    for name, value in sums.items():
        if winner is None or value > sums[winner]:
            winner = name
    assert weighted(votes, weights) == winner


def test_answers_are_equal_as_told_and_the_class_bears_its_first_name():
    assert majority(["2", "1.0", "1", "1.00"], same_value) == "1.0"
    assert totals(["1", "1.0", "2", None], [0.5, 0.25, 4, 9], same_value) == [("1", 0.75), ("2", 4)]
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority([None, None, "a"]) == "a"
    assert majority([]) is majority([None]) is None
    assert majority(["[invalid]", None, None]) == "[invalid]"  # a text like any other
    assert weighted(["a", "b", "b"], [3, 1, 1.5]) == "a"
    assert weighted(["a", "b", "b"], [2.5, 1, 1.5]) == "a"
    assert weighted(["a", "b"], [-2, -1]) == "b"
    assert weighted(["a", "b", "b"], [1e308, 1e308, 1e308]) == "b"
    assert weighted(["b", *["a"] * 10], [1.0, *[0.1] * 10]) == "a"  # exactly, ten tenths in floats are above 1


@pytest.mark.parametrize("weight", [NAN, INF, -INF])
def test_weights_that_are_no_numbers_are_named(weight):
    for votes in (["a", "b", "c"], ["a", "b", None]):
        with pytest.raises(InputError, match=f"weight 2 is {weight}"):
            weighted(votes, [1, 2, weight])
    with pytest.raises(InputError, match="2 weights for 1 answers"):
        weighted(["a"], [1, 2])


def test_the_best_of_n_is_the_best_that_answered():
    assert best(["a", "b", None], [0.1, 0.3, 0.9]) == "b"
    assert best(["a", "b", "c"], [0.3, 0.3, 0.1]) == "a"
    assert best(["a", "b"], [NAN, -1e30]) == "b"
    assert best(["a", "b"], [NAN, -INF]) == "a"
    assert best(["a", "b"], [0.0, INF]) == "b"
    assert best([None], [-INF]) is best([], []) is None
    with pytest.raises(InputError, match="1 scores for 2 answers"):
        best(["a", "b"], [1])


def test_borda_weights_follow_the_rank():
    assert borda([0.1, 0.9, 0.5], 1) == [1, 3, 2]
    assert borda([0.1, 0.9, 0.5], 0.5) == pytest.approx([1, math.sqrt(3), math.sqrt(2)])
    assert borda([0.5, 0.5, NAN, -INF], 2) == [16, 9, 4, 1]
    assert borda([0.2, 0.1], 0) == [1, 1]
    assert borda([], 1) == []
    for power in (-1, NAN, INF, 200):
        with pytest.raises(InputError, match="power is"):
            borda([0.1] * 100, power)


def test_a_decided_vote_never_changes_and_an_undecided_one_can():
    """Every sequence of up to 7 votes over three answers and none, at every place where it could have stopped."""
    names = ["a", "b", None]
    for total in range(1, 8):
        for votes in product([*names, "c"], repeat=total):
            for drawn in range(total):
                if decided(votes[:drawn], total - drawn):
                    assert majority(votes) == majority(votes[:drawn])
    for drawn in range(6):
        for votes in product(names, repeat=drawn):
            for outstanding in range(4):
                ends = [
                    Counter(v for v in (*votes, *rest) if v is not None).most_common()
                    for rest in product(["a", "b", "z"], repeat=outstanding)
                ]
                first = majority(votes)
                sure = first is not None and all(
                    found[0][0] == first and (len(found) == 1 or found[0][1] > found[1][1]) for found in ends
                )
                assert decided(votes, outstanding) == sure


def test_where_a_vote_is_decided():
    assert decided(["a"] * 5 + ["b"], 3) and not decided(["a"] * 5 + ["b"], 4)
    assert not decided(["a", "b"], 0) and not decided([], 0) and decided([None, "a"], 0)
    assert decided(["1", "1.0", "2"], 0, same_value) and not decided(["1", "1.0", "2"], 1, same_value)
    with pytest.raises(InputError, match="-1 samples are outstanding"):
        decided(["a"], -1)


def chance(a: int, b: int) -> float:
    """P(Beta(a + 1, b + 1) > 1/2) by integration, midpoint rule."""
    x = (np.arange(200_000) + 0.5) / 200_000
    density = x**a * (1 - x) ** b
    return float(density[x > 0.5].sum() / density.sum())


def test_adaptive_consistency_stops_by_the_integral():
    needed = [next(a for a in range(b, 40) if adaptive_stop([b, 1, a] if b else [a])) for b in range(6)]
    assert needed == [4, 6, 8, 9, 11, 12]
    for b in range(6):
        for a in range(b, 14):
            for threshold in (0.5001, 0.8, 0.95, 0.99):
                assert adaptive_stop([a, b], threshold) == (chance(a, b) >= threshold), (a, b, threshold)


def test_adaptive_consistency_at_its_ends():
    assert adaptive_stop([], 0.5) and not adaptive_stop([], 0.51) and adaptive_stop([7, 7], 0.5)
    assert not adaptive_stop([10**3, 10**3 - 5]) and adaptive_stop([2000, 1000])
    for threshold in (-0.1, 1.1, NAN):
        with pytest.raises(InputError, match="threshold"):
            adaptive_stop([1], threshold)
    with pytest.raises(InputError, match=r"counts are \[3, -1\]"):
        adaptive_stop([3, -1])


def test_a_window_agrees_whole_or_not_at_all():
    assert unanimous_window(list("abaaa"), 2) and not unanimous_window(list("abbaa"), 2)
    assert not unanimous_window(list("baa"), 3) and not unanimous_window(list("aa"), 3)
    assert not unanimous_window(["a", None], 2) and not unanimous_window([None, None], 2)
    assert unanimous_window(["1", "1.0"], 2, same_value) and not unanimous_window(["1", "1.0"], 2)
    assert unanimous_window(["a"], 1) and not unanimous_window([], 1)
    with pytest.raises(InputError, match="window is 0"):
        unanimous_window(["a"], 0)


def test_the_shortest_thoughts_vote():
    finished = [("long", 90), ("long", 80), ("b", 30), ("a", 20), (None, 10), ("b", 50)]
    assert shortest_of(finished, 1) is None
    assert shortest_of(finished, 2) == "a"
    assert shortest_of(finished, 3) == "a"  # a tie, and its thought is shorter
    assert shortest_of(finished, 4) == "b"
    assert shortest_of(finished, 9) == "b"  # long has as many, and later
    assert shortest_of([("x", 5), ("y", 5)], 1) == "x"
    assert shortest_of([("1.0", 9), ("2", 3), ("1", 7)], 3, same_value) == "1"
    assert shortest_of([], 1) is None
    with pytest.raises(InputError, match="m is 0"):
        shortest_of(finished, 0)
