"""DeepConf's confidences against loops over every window, and its votes and bars by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.request import Logprob
from engine.search.confidence import (
    bottom_groups,
    confidence_vote,
    consensus,
    groups,
    lowest_group,
    mean,
    tail,
    token_confidence,
    warm_up_bar,
)

traces = st.lists(st.floats(0, 40), min_size=1, max_size=60).map(np.array)
windows = st.integers(1, 70)


def windows_of(trace, window):
    """Every window's mean by itself."""
    window = min(window, len(trace))
    return [math.fsum(trace[at : at + window]) / window for at in range(len(trace) - window + 1)]


@given(traces, windows, st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_scores_are_those_of_loops(trace, window, share):
    expected = windows_of(trace, window)
    assert groups(trace, window) == pytest.approx(expected, abs=1e-12)
    assert lowest_group(trace, window) == pytest.approx(min(expected), abs=1e-12)
    tenths = round(share * 10)
    least = sorted(expected)[: max(1, len(expected) * tenths // 10)]
    assert bottom_groups(trace, window, share) == pytest.approx(sum(least) / len(least), abs=1e-12)
    assert tail(trace, window) == pytest.approx(expected[-1], abs=1e-12)
    assert mean(trace) == pytest.approx(sum(trace) / len(trace), abs=1e-12)


def test_long_traces_keep_their_digits():
    trace = np.random.default_rng(3).gamma(2.0, 5.0, 300_000)
    found = groups(trace)
    assert found.shape == (300_000 - 2047,)
    for at in (0, 1, 150_000, len(found) - 1):
        assert found[at] == pytest.approx(math.fsum(trace[at : at + 2048]) / 2048, rel=1e-12)


def test_traces_as_short_as_the_window_or_shorter_are_one_group():
    trace = np.array([1.0, 2.0, 6.0])
    for window in (3, 4, 2048):
        assert groups(trace, window).tolist() == [3.0] == [tail(trace, window)] == [lowest_group(trace, window)]
        assert bottom_groups(trace, window) == 3.0
    assert groups(trace, 2).tolist() == [1.5, 4.0]
    assert tail(trace, 2) == 4.0 and lowest_group(trace, 2) == 1.5


def test_a_token_s_confidence_is_of_the_top_alone():
    top = ((5, -0.5), (7, -1.5), (9, -4.0))
    inside, outside = Logprob(5, -0.5, top), Logprob(3, -20.0, top, forced=True)
    assert token_confidence([inside, outside]).tolist() == [2.0, 2.0]
    assert token_confidence([]).shape == (0,)
    surer = token_confidence([Logprob(5, -0.01, ((5, -0.01), (7, -9.0)))])[0]
    assert surer == pytest.approx(4.505)  # higher where one token has it all
    with pytest.raises(InputError, match="position 1 has no top"):
        token_confidence([inside, Logprob(5, -0.5)])
    with pytest.raises(InputError, match="position 0 has a top log-probability that is not finite"):
        token_confidence([Logprob(5, 0.0, ((5, 0.0), (7, -math.inf)))])


def test_what_has_no_groups_is_refused():
    empty, trace = np.array([]), np.array([1.0])
    for score in (groups, lowest_group, tail, bottom_groups):
        with pytest.raises(InputError, match="a trace of 0 tokens"):
            score(empty)
        with pytest.raises(InputError, match="a window of 0"):
            score(trace, 0)
    with pytest.raises(InputError, match="a trace of 0 tokens"):
        mean(empty)
    for share in (0, -0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="share is"):
            bottom_groups(trace, 1, share)


def test_the_surest_traces_vote():
    votes, sure = ["a", "a", "b", None, "b"], [5.0, 5.0, 9.0, 99.0, 2.0]
    assert confidence_vote(votes, sure) == "b"  # 11 against 10
    assert confidence_vote(votes, sure, keep=0.75) == "a"  # without the last
    assert confidence_vote(votes, sure, keep=0.1) == "b"  # the surest that answered
    assert confidence_vote(votes, sure, keep=1.0) == "b"
    assert confidence_vote(["a", "b"], [3.0, 3.0], keep=0.5) == "a"
    assert confidence_vote([None], [3.0], keep=0.5) is confidence_vote([], []) is None
    # a tie is the first answer's, in the order of the samples and not of the confidences
    assert confidence_vote(["a", "b", "a"], [1.0, 3.0, 2.0], keep=1.0) == "a"
    assert confidence_vote(["1", "2", "1.0"], [2.0, 3.0, 2.0], same=lambda x, y: float(x) == float(y)) == "1"
    # 7 % of 100 are 7: the eighth would turn it
    many = ["a"] * 3 + ["b"] * 4 + ["a"] * 2 + ["c"] * 91
    assert confidence_vote(many, [10.0] * 9 + [1.0] * 91, keep=0.07) == "b"
    with pytest.raises(InputError, match="weight 3 is nan"):
        confidence_vote(votes, [5.0, 5.0, 9.0, math.nan, 2.0], keep=0.1)
    with pytest.raises(InputError, match="share is 0"):
        confidence_vote(votes, sure, keep=0)


def test_the_bar_lets_eta_percent_of_the_first_traces_pass():
    lowest = [float(n) for n in range(1, 12)]
    assert warm_up_bar(lowest, 10) == 10.0 and warm_up_bar(lowest, 90) == 2.0
    assert warm_up_bar(lowest[::-1], 100) == 1.0 and warm_up_bar(lowest, 0) == 11.0
    assert warm_up_bar([1.0, 2.0], 75) == 1.25
    for values, eta in (([], 10), ([1.0, math.nan], 10), ([1.0], -1), ([1.0], 101), ([1.0], math.nan)):
        with pytest.raises(InputError, match="the lowest groups are"):
            warm_up_bar(values, eta)


def test_a_consensus_is_a_share_of_the_confidence():
    assert consensus(["a", "b"], [19.0, 1.0]) and not consensus(["a", "b"], [18.9, 1.1])
    assert consensus(["a", "a", None], [1.0, 2.0, 50.0])
    assert consensus(["1", "1.0"], [1.0, 2.0], same=lambda x, y: float(x) == float(y))
    assert not consensus([], []) and not consensus([None], [4.0]) and not consensus(["a"], [0.0])
    assert consensus(["a", "b"], [3.0, 1.0], threshold=0.75) and not consensus(["a", "b"], [3.0, 1.0], threshold=0.76)
    with pytest.raises(InputError, match="the least confidence is -1"):
        consensus(["a"], [-1.0])
    with pytest.raises(InputError, match="weight 0 is inf"):
        consensus(["a"], [math.inf])
