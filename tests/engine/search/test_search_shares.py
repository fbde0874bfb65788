"""Rules by which a width is shared: against transcriptions in rationals and in float32, and for hostile scores."""

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.search.shares import by_code, by_paper, by_remainder, share

INF, NAN = math.inf, math.nan
RULES = [by_paper, by_code, by_remainder]
THAT_ADD_UP = [by_code, by_remainder]
SharesOf = Callable[[Sequence[float], int, float], list[int]]

eighths = st.integers(-40, 40).map(lambda n: n / 8)
"""Scores whose differences and shifts floats hold exactly; often equal."""
any_score = st.floats(width=64) | st.sampled_from([0.0, 1e30, -1e30, 5e-324, 1.7e308, -1.7e308])
widths = st.integers(1, 300)
temperatures = st.sampled_from([0.01, 0.1, 0.2, 1.0, 7.0])


def ceilings(weights: Sequence[Fraction], width: int) -> list[int]:
    """The published loop, node by node, over weights that stand for exp(score / T)."""
    ranked = sorted(enumerate(weights), key=lambda one: one[1])
    ranked.reverse()
    left, total, given = width, sum(weights, Fraction(0)), {}
    for node, weight in ranked:
        given[node] = math.ceil(Fraction(left) * weight / total) if total else 0
        left -= given[node]
        total -= weight
    return [given[node] for node in range(len(weights))]


def weights_of(scores: Sequence[float], temperature: float) -> list[Fraction]:
    best = max(scores)
    return [Fraction(math.exp((score - best) / temperature)) for score in scores]


def in_float32(scores: Sequence[float], width: int, temperature: float) -> list[int]:
    """The published loop as it runs: float32, not shifted."""
    values = np.asarray(scores, dtype=np.float32)
    order = np.argsort(values, kind="stable")[::-1]
    weights = np.exp(values / np.float32(temperature))
    total, left, given = weights.sum(dtype=np.float32), width, [0] * len(scores)
    for at in order:
        n = int(np.ceil(np.float32(left) * weights[at] / total))
        given[at] = n
        left -= n
        total = total - weights[at]
        if total <= 0:
            break
    return given


def test_the_code_s_rule_is_its_loop_in_rationals():
    draw = random.Random(5)
    for _ in range(4000):
        scores = [round(draw.random(), draw.choice([1, 3, 16])) for _ in range(draw.randint(1, 24))]
        width, temperature = draw.randint(1, 128), draw.choice([0.02, 0.1, 0.2, 1.0])
        assert by_code(scores, width, temperature) == ceilings(weights_of(scores, temperature), width)


def test_the_paper_s_rule_rounds_each_share():
    draw, off = random.Random(6), 0
    for _ in range(2000):
        scores = [draw.random() for _ in range(draw.randint(1, 16))]
        weights = weights_of(scores, 0.2)
        shares = [Fraction(16) * weight / sum(weights) for weight in weights]
        found = by_paper(scores, 16, 0.2)
        assert all(abs(n - exact) <= Fraction(1, 2) for n, exact in zip(found, shares, strict=True))
        off += sum(found) != 16
    assert off > 1000  # most layers miss the width


def test_the_remainder_rule_is_within_one_of_each_share_and_nothing_is_nearer():
    draw = random.Random(7)
    for _ in range(2000):
        scores = [draw.random() for _ in range(draw.randint(1, 16))]
        width = draw.randint(1, 40)
        weights = weights_of(scores, 0.2)
        shares = [Fraction(width) * weight / sum(weights) for weight in weights]
        off = [n - exact for n, exact in zip(by_remainder(scores, width, 0.2), shares, strict=True)]
        assert sum(off) == 0 and all(-1 < one < 1 for one in off)
        # one moved from the most over to the most under would not bring them nearer
        assert max(off) - min(off) <= 1


def test_float32_gives_out_one_too_many_now_and_then_and_these_never():
    draw, over = random.Random(8), 0
    for _ in range(3000):
        scores = [draw.random() for _ in range(draw.randint(2, 16))]
        given = sum(in_float32(scores, 16, 0.2))
        assert given in (16, 17)
        over += given > 16
        assert sum(by_code(scores, 16, 0.2)) == 16
    assert 0.005 < over / 3000 < 0.10, over


def test_equal_scores_in_float32_and_exactly():
    assert sorted(by_code([0.5] * 4, 16, 0.2)) == [4, 4, 4, 4]
    assert by_code([0.5] * 5, 16, 0.2) == [3, 3, 3, 3, 4]
    assert by_code([0.5] * 16, 16, 0.2) == [1] * 16
    assert by_remainder([0.5] * 5, 16, 0.2) == [4, 3, 3, 3, 3]
    assert by_paper([0.5] * 5, 16, 0.2) == [3] * 5
    assert by_paper([0.5] * 33, 16, 0.2) == [0] * 33
    assert sum(in_float32([0.5] * 5, 16, 0.2)) == 17


@given(st.lists(eighths, min_size=1, max_size=20), widths, temperatures, eighths)
def test_a_shift_changes_nothing(scores, width, temperature, shift):
    for rule in RULES:
        assert rule([score + shift for score in scores], width, temperature) == rule(scores, width, temperature)


@given(st.lists(eighths, min_size=1, max_size=20), widths, temperatures)
def test_better_scores_get_no_less_and_ties_go_as_said(scores, width, temperature):
    for rule, later in ((by_paper, None), (by_code, True), (by_remainder, False)):
        given_ = rule(scores, width, temperature)
        for a in range(len(scores)):
            for b in range(a + 1, len(scores)):
                if scores[a] != scores[b]:
                    assert (given_[a] - given_[b]) * (scores[a] - scores[b]) >= 0
                elif later is None:
                    assert given_[a] == given_[b]
                else:
                    assert 0 <= (given_[b] - given_[a]) * (1 if later else -1) <= 1


@given(st.lists(eighths, min_size=1, max_size=12, unique=True), widths, temperatures, st.randoms())
def test_a_permutation_only_permutes(scores, width, temperature, draw):
    order = draw.sample(range(len(scores)), len(scores))
    for rule in RULES:
        moved, widths_ = rule([scores[at] for at in order], width, temperature), rule(scores, width, temperature)
        # two weights that both underflow or are equal as floats may change places
        if len(set(weights_of(scores, temperature))) == len(scores) or rule is by_paper:
            assert moved == [widths_[at] for at in order]


@settings(max_examples=300)
@given(st.lists(any_score, min_size=1, max_size=20), widths, st.floats(0, exclude_min=True, allow_nan=False))
def test_any_scores_have_an_outcome_and_the_width_is_not_lost(scores, width, temperature):
    for rule in RULES:
        given_ = rule(scores, width, temperature)
        assert len(given_) == len(scores) and all(type(n) is int and n >= 0 for n in given_)
        if rule in THAT_ADD_UP:
            assert sum(given_) == width
        if any(map(math.isfinite, scores)):
            assert all(not n for n, score in zip(given_, scores, strict=True) if score == -INF or math.isnan(score))


@pytest.mark.parametrize("rule", THAT_ADD_UP)
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([NAN, 0.5, 0.5], [0, 4, 4]),
        ([-INF, 0.5, 0.5], [0, 4, 4]),
        ([INF, 0.5, 0.5, -INF], [3, 3, 2, 0]),
        ([INF, 0.5, -1e30], [4, 4, 0]),
        ([NAN, NAN], [4, 4]),
        ([-INF, -INF], [4, 4]),
        ([INF, NAN, -INF, INF], [2, 2, 2, 2]),
        ([1e30, 1e30], [4, 4]),
        ([1e30, 0.0], [8, 0]),
        ([1.7e308, -1.7e308], [8, 0]),
        ([5e-324, 0.0], [4, 4]),
        ([NAN], [8]),
        ([0.3], [8]),
    ],
    ids=str,
)
def test_hostile_scores(rule, scores, expected):
    found = rule(scores, 8, 0.2)
    # of equal scores the code's rule favours the later, and what it favours is where order matters here
    assert found == ([2, 3, 3, 0] if rule is by_code and expected == [3, 3, 2, 0] else expected)


@pytest.mark.parametrize("rule", RULES)
def test_all_rules_agree_at_the_ends(rule):
    assert rule([0.1, 0.9, 0.89999], 16, 1e-9) == [0, 16, 0]
    assert rule([0.1, 0.9], 16, 5e-324) == [0, 16]
    assert rule([-3.0, 0.9, 5.0, 1.0], 16, 1e18) == [4, 4, 4, 4]
    assert rule([1.7e308, -1.7e308], 16, INF) == [8, 8]
    assert rule([0.2, 0.1], 1, 0.1) == [1, 0]
    if rule is not by_paper:
        assert sorted(rule([0.5] * 10, 3, 0.1)) == [0] * 7 + [1] * 3


@pytest.mark.parametrize("rule", RULES)
def test_what_cannot_be_shared_is_refused(rule):
    for scores, width, temperature in [([], 4, 0.1), ([1.0], 0, 0.1), ([1.0], -1, 0.1)]:
        with pytest.raises(InputError, match="give at least 1"):
            rule(scores, width, temperature)
    for temperature in (0.0, -0.1, NAN):
        with pytest.raises(InputError, match=f"temperature is {temperature}"):
            rule([1.0], 4, temperature)


def test_rules_are_known_by_name():
    scores = [0.5] * 5
    assert share(scores, 16, 0.2, "paper") == by_paper(scores, 16, 0.2)
    assert share(scores, 16, 0.2, "code") == by_code(scores, 16, 0.2)
    assert share(scores, 16, 0.2, "remainder") == by_remainder(scores, 16, 0.2)
    with pytest.raises(InputError, match="rule is 'fair'"):
        share(scores, 16, 0.2, "fair")
