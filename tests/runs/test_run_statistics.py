"""rliable's statistics, against its formulas written out in loops."""

import itertools

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from rlscan.runs import _statistics
from rlscan.runs._statistics import (
    estimate,
    performance_profile,
    pooled_iqm,
    probability_of_improvement,
)

RNG = np.random.default_rng(0)
X = [np.round(RNG.normal(size=n), 1) for n in (5, 5, 5)]  # rounded, so that some are equal
Y = [np.round(RNG.normal(0.3, size=n), 1) for n in (4, 4, 4)]


def test_iqm_is_that_of_the_runs_of_all_tasks():
    assert estimate(pooled_iqm, X).value == pytest.approx(trim_mean(np.ravel(X), 0.25))


def test_probability_of_improvement():
    """For each task it is Mann and Whitney's U over the number of pairs."""
    by_u = [mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(X, Y, strict=True)]
    by_hand = [
        np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y]) for x, y in zip(X, Y, strict=True)
    ]
    found = estimate(probability_of_improvement, X, Y)
    assert found.value == pytest.approx(np.mean(by_u)) == pytest.approx(np.mean(by_hand))
    assert found.low < found.value < found.high
    assert estimate(probability_of_improvement, X, X).value == 0.5


def test_performance_profile():
    thresholds = np.array([-1.0, 0.0, 0.5])
    found = estimate(lambda scores: performance_profile(scores, thresholds), X)
    np.testing.assert_allclose(found.value, [(np.stack(X) > t).mean() for t in thresholds])
    assert found.low.shape == found.high.shape == (3,)
    assert (found.low <= found.value).all() and (found.value <= found.high).all()


def test_the_interval_is_that_of_all_stratified_resamples():
    """Two tasks with three runs have 27 · 27 resamples, all equally probable."""
    tasks = [np.array([1.0, 2.0, 4.0]), np.array([0.0, 10.0, 30.0])]
    sets = [list(itertools.product(task, repeat=3)) for task in tasks]
    every = [trim_mean([*a, *b], 0.25) for a in sets[0] for b in sets[1]]
    found = estimate(pooled_iqm, tasks, num_resamples=20_000)
    wanted = np.percentile(every, [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], wanted, atol=0.3)
    # If the runs of both tasks were drawn from one urn, the interval would be wider.
    mixed = np.concatenate(tasks)[np.random.default_rng(1).integers(6, size=(20_000, 6))]
    assert np.percentile(trim_mean(mixed, 0.25, axis=1), 97.5) > found.high + 1


def test_tasks_with_unequal_numbers_of_runs():
    x, y = [X[0], X[1][:2]], [Y[0][:3], Y[1]]
    found = estimate(probability_of_improvement, x, y).value
    alone = [
        estimate(probability_of_improvement, [a], [b]).value for a, b in zip(x, y, strict=True)
    ]
    assert found == pytest.approx(np.mean(alone))
    assert estimate(pooled_iqm, x).value == pytest.approx(trim_mean(np.concatenate(x), 0.25))


@pytest.mark.slow
def test_batches_give_the_same_estimate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_statistics, "_MOST_NUMBERS", 10_000)
    found = estimate(pooled_iqm, X)
    monkeypatch.setattr(_statistics, "_MOST_NUMBERS", 10)
    np.testing.assert_allclose(estimate(pooled_iqm, X), found, atol=0.05)


def test_one_run_of_each_task_has_no_interval():
    found = estimate(pooled_iqm, [np.ones(1), np.zeros(1)])
    assert found.value == 0.5 and np.isnan([found.low, found.high]).all()
