"""Estimators against brute force, intervals and tests against scipy, the three metrics against the published tables."""

from itertools import combinations, product
from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

from bench.evaluation.estimators import best_of_k, expected_max, first_k_majority, majority_at_k, pass_at_k
from bench.evaluation.grade import vote
from bench.evaluation.metrics import Point, at_longest, control, performance, scaling, spread
from bench.statistics import bootstrap, permutation_test, sampling_interval
from curate.grading.compare import canonical
from curate.grading.grade import AnswerKind


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (2, 6), (1, 7)])
def test_pass_at_k_counts_subsets(right, n):
    outcomes = [i < right for i in range(n)]
    for k in range(1, n + 1):
        expected = np.mean([any(outcomes[i] for i in subset) for subset in combinations(range(n), k)])
        assert pass_at_k(right, n, k) == pytest.approx(expected)
    hypergeometric = stats.hypergeom(n, right, 3)
    assert pass_at_k(right, n, 3) == pytest.approx(1 - hypergeometric.pmf(0))


def brute_majority(votes, correct, k):
    total = 0.0
    for subset in combinations(range(len(votes)), k):
        said = [votes[i] for i in subset if votes[i] is not None]
        if said:
            most = max(said.count(v) for v in said)
            winners = {v for v in said if said.count(v) == most}
            total += sum(correct[votes.index(v)] for v in winners) / len(winners)
    return total / comb(len(votes), k)


@pytest.mark.parametrize("votes", ["aab", "abcde", "aabbcc", "aaabbbc", "ab-a-bb", "-----", "abab--ccb", "bbbbbbba"])
def test_majority_is_the_mean_over_all_subsets(votes):
    answers = [None if v == "-" else v for v in votes]
    for right in ({"a"}, {"a", "b"}, set()):
        correct = [v in right for v in answers]
        for k in range(1, len(votes) + 1):
            assert majority_at_k(answers, correct, k) == pytest.approx(brute_majority(answers, correct, k))


def test_majority_of_one_is_one_sample_and_refuses_contradictions():
    votes, correct = ["a", "b", "a", None], [True, False, True, False]
    assert majority_at_k(votes, correct, 1) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="'a'"):
        majority_at_k(["a", "a"], [True, False], 1)
    with pytest.raises(ValueError, match="k is 5"):
        majority_at_k(votes, correct, 5)


def test_best_of_k_and_the_longest_path_count_subsets():
    scores, correct = [0.1, 0.5, 0.5, 0.3, -1.0], [True, False, True, True, False]
    tokens = [10, 40, 20, 40, 5]
    for k in range(1, 6):
        best, longest = 0.0, 0.0
        for subset in combinations(range(5), k):
            top = max(scores[i] for i in subset)
            tied = [correct[i] for i in subset if scores[i] == top]
            best += sum(tied) / len(tied)
            longest += max(tokens[i] for i in subset)
        assert best_of_k(scores, correct, k) == pytest.approx(best / comb(5, k))
        assert expected_max(tokens, k) == pytest.approx(longest / comb(5, k))


def test_the_originals_majority_takes_the_first_of_a_tie():
    votes, correct = ["b", "a", "a", "b"], [False, True, True, False]
    assert [first_k_majority(votes, correct, k) for k in (1, 2, 3, 4)] == [False, False, True, False]
    assert first_k_majority([None, None], [False, False], 2) is False


def test_bootstrap_agrees_with_scipy_and_the_normal_interval():
    values = list(np.random.default_rng(3).binomial(4, 0.6, 200) / 4)
    ours = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)
    half = 1.96 * np.std(values, ddof=1) / sqrt(len(values))
    assert ours == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.006)
    assert bootstrap(values) == ours and bootstrap([0.5] * 9) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_sampling_interval_is_the_closed_form():
    samples = [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    errors = [stats.sem(s) for s in samples]
    half = 1.959964 * sqrt(sum(e * e for e in errors)) / 3
    mean = np.mean(samples)
    assert sampling_interval(samples) == pytest.approx((mean - half, mean + half))
    assert sampling_interval([[1.0], [0.0]]) is None and sampling_interval([]) is None


@pytest.mark.parametrize("differences", [[1, 1, 1, -1, 0, 0], [0.5, -0.25, 1.0, 0.75, 0.5], [1.0] * 6, [0.0, 0.0]])
def test_permutation_test_is_exact_for_few(differences):
    result = stats.permutation_test(
        (differences, [0.0] * len(differences)),
        lambda x, y, axis: np.sum(x - y, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    signs = list(product((1, -1), repeat=len(differences)))
    observed = abs(sum(differences)) - 1e-9
    expected = np.mean([abs(sum(s * d for s, d in zip(flip, differences, strict=True))) >= observed for flip in signs])
    assert permutation_test(differences) == pytest.approx(expected)
    assert permutation_test(differences) == pytest.approx(min(1.0, result.pvalue), abs=1e-9)


def test_permutation_test_draws_for_many():
    differences = [1.0] * 25 + [-1.0] * 10
    expected = stats.binomtest(10, 35).pvalue  # flips of equal sizes are coin tosses
    assert permutation_test(differences) == pytest.approx(expected, abs=0.004)


# (mean thinking tokens, AIME24 accuracy as k of 30, limit): Tables 12 to 14 and Figures 1 and 6 of the paper.
TOKEN = [(7939, 8, 1024), (7158, 9, 2048), (8263, 10, 4096), (7108, 10, 8192), (7500, 12, 16384)]
TOKEN_FORCED = [(1024, 1, 1024), (2048, 9, 2048), (4031, 10, 4096), (5664, 10, 8192), (6330, 12, 16384)]
STEP = [(7252, 10, 1600), (6277, 7, 3200), (5396, 10, 6400), (5552, 11, 12800), (7551, 10, 25600)]
STEP_FORCED = [(1517, 7, 1600), (2963, 7, 3200), (4636, 10, 6400), (5409, 11, 12800), (7551, 10, 25600)]
REJECTION = [(3703, 11, 4000), (4344, 10, 5000), (4734, 9, 6000), (5193, 8, 8000), (5293, 7, 16000)]
BUDGET = [
    (500, 0, 500),
    (1000, 4, 1000),
    (2000, 9, 2000),
    (3933, 13, 4000),
    (5301, 15, 8000),
    (6658, 16, 30000),
    (7321, 17, 30000),
]
CLASS = [(8033, 9, 6109), (9651, 11, 6109)]


def points(runs, more=()):
    return [Point(x, k / 30, limit, limit in more and i == 1) for i, (x, k, limit) in enumerate(runs)]


@pytest.mark.parametrize(
    ("runs", "more", "percent", "slope", "best"),
    [
        (BUDGET, (), 100, 15, 56.7),
        (TOKEN, (), 40, -24, 40.0),
        (TOKEN_FORCED, (), 100, 13, 40.0),
        (STEP, (), 60, 3, 36.7),
        (STEP_FORCED, (), 100, 6, 36.7),
        (CLASS, (6109,), 50, 25, 36.7),
    ],
)
def test_table_3_of_the_paper(runs, more, percent, slope, best):
    found = points(runs, more)
    assert round(100 * control(found)) == percent
    assert scaling(found).value == pytest.approx(slope, abs=0.55)  # printed without a digit behind the point
    assert round(100 * performance(found), 1) == best


def test_table_3s_rejection_row():
    """Scaling over the five limits that its caption names; the best accuracy is the sixth's, at 3,500."""
    found = points(REJECTION)
    assert control(found) == 1.0
    assert scaling(found).value == pytest.approx(-35, abs=1.0)  # points read off a figure
    assert round(100 * performance([Point(2974, 12 / 30, 3500), *found]), 1) == 40.0


def test_scaling_of_runs_that_do_not_spread_is_refused():
    found = points(TOKEN)
    assert scaling(found).pairs == 10
    assert scaling(found, 0.5).value is None and scaling(found, 0.5).pairs == 0
    assert scaling([Point(0, 0.1), Point(8, 0.4)]).value is None  # no logarithm of no tokens
    assert scaling([Point(100, 0.1), Point(400, 0.5)], 0.5).value == pytest.approx(20)
    assert at_longest(found) == pytest.approx(10 / 30)
    with pytest.raises(ValueError, match="no runs"):
        control([])


def test_spread_brackets_the_truth_and_shows_the_maximums_bias():
    random = np.random.default_rng(0)
    skill = random.random(400)
    accuracy = np.array([(skill < share) for share in (0.2, 0.4, 0.6)], dtype=float)
    tokens = np.array([[100.0] * 400, [200.0] * 400, [400.0] * 400])
    found = spread(accuracy, tokens)
    slope = scaling([Point(t, a) for t, a in zip((100, 200, 400), accuracy.mean(axis=1), strict=True)]).value
    assert found.scaling[0] < slope < found.scaling[1] and found.scaling[1] - found.scaling[0] < 8
    assert found.performance[0] < accuracy[2].mean() < found.performance[1]
    flat = spread((random.random((8, 50)) < 0.5).astype(float), np.tile(np.full(50, 100.0), (8, 1)))
    assert flat.scaling is None  # nothing is half a doubling apart
    assert flat.performance_bias > 0


def test_what_a_checker_finds_wrong_votes_for_nothing_right():
    """Both are spelled "4" once units are taken off; the family's checker takes the first alone."""
    assert canonical("4 every Monday") == canonical("4")
    said = [("4", True), ("4 every Monday", False), ("4 every Monday ", False), ("11", False)]
    right, longer, again, other = (vote(answer, AnswerKind.FAMILY, correct) for answer, correct in said)
    assert len({right, longer, other}) == 3 and longer == again
    assert majority_at_k([right, longer, again], [True, False, False], 3) == 0.0
