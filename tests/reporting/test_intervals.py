"""Intervals of shares: known values, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.interval_coverage import CORRELATIONS, coverage, draw
from longva.reporting.intervals import clustered_interval, clustered_intervals, wilson_interval


def interval(trials: int, *right: int) -> tuple[float, float]:
    """Of clusters of equal size, each with so many right answers."""
    outcomes = [int(j < x) for x in right for j in range(trials)]
    return clustered_interval(outcomes, [i for i in range(len(right)) for _ in range(trials)])


@pytest.mark.parametrize("clusters", [10, 20, 50])
@pytest.mark.parametrize("mean", [0.5, 0.9, 0.98])
def test_of_ten_clusters_or_more_at_least_93_percent_of_intervals_hold_the_truth(clusters, mean):
    rng = np.random.default_rng(0)
    for correlation in CORRELATIONS:
        right = draw(rng, 400, clusters, 4, correlation, mean)
        held, _, _ = coverage(right, 4, mean)
        assert held >= 0.93, correlation


def test_wilsons_interval_of_ninety_answers_about_each_of_five_needles_rarely_holds_the_truth():
    rng = np.random.default_rng(0)
    held, plain, _ = coverage(draw(rng, 100, 5, 90, 0.3, 0.9), 90, 0.9)
    assert plain < 0.4 < 0.93 <= held


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Clopper and Pearson's, quantiles of beta distributions by scipy 1.17.1
        (5, 5, 0.478176, 1.0),
        (3, 5, 0.146633, 0.947255),
        (0, 10, 0.0, 0.308497),
        (1, 10, 0.002529, 0.445016),
        (409, 450, 0.878429, 0.933823),
    ],
)
def test_clusters_of_one_trial_have_the_exact_interval(right, n, low, high):
    outcomes = [1] * right + [0] * (n - right)
    assert clustered_interval(outcomes, range(n)) == pytest.approx((low, high), abs=1e-4)


def test_clusters_that_are_all_right_or_all_wrong_count_as_one_trial_each():
    assert interval(30, 30, 30, 30, 0, 0) == pytest.approx((0.1466, 0.9473), abs=2e-3)


def test_more_clusters_say_more_than_more_trials_of_the_same():
    few, many_trials, many = interval(6, *[5] * 5), interval(60, *[50] * 5), interval(6, *[5] * 50)
    widths = [high - low for low, high in (few, many_trials, many)]
    assert widths[2] < 0.13 < 0.3 < widths[1] < widths[0]


def test_no_interval_claims_more_than_if_all_were_right():
    """A mistake that is no needle's own does not make a run more certain than none at all."""
    perfect, _ = interval(90, *[90] * 10)
    assert interval(90, *[90] * 9, 89)[0] <= perfect
    assert interval(90, *[89] * 10)[0] <= perfect
    assert perfect == pytest.approx(0.7648, abs=1e-3)


def test_one_cluster_tells_next_to_nothing_and_no_trials_nothing():
    low, high = interval(90, 45)
    assert low < 0.03 and high > 0.97
    assert clustered_interval([], []) == (0.0, 1.0) == wilson_interval(0, 0)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=12))
def test_an_interval_holds_the_mean_mirrors_and_does_not_depend_on_order(clusters):
    outcomes, owners = [], []
    for number, (right, wrong) in enumerate(clusters):
        outcomes += [1] * right + [0] * wrong
        owners += [number] * (right + wrong)
    low, high = clustered_interval(outcomes, owners)
    mean = sum(outcomes) / len(outcomes) if outcomes else 0.5
    assert 0 <= low <= mean <= high <= 1
    mirrored = clustered_interval([1 - value for value in outcomes], owners)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
    turned = clustered_interval(outcomes[::-1], owners[::-1])
    assert turned == pytest.approx((low, high), abs=1e-9)


def test_samples_of_a_batch_do_not_touch_each_other():
    right = np.array([[6, 0, 3], [6, 6, 6], [5, 6, 6]])
    together = clustered_intervals(right, np.array([6, 6, 6]))
    assert together.tolist() == [pytest.approx(interval(6, *row)) for row in right.tolist()]
