"""The interquartile mean and its interval, against SciPy's."""

import numpy as np
import pytest
from scipy import stats

import rlscan
from rlscan.runs import _scores as _iqm


@pytest.mark.parametrize("num_runs", [1, 2, 3, 4, 5, 10, 16])
def test_iqm_is_the_trimmed_mean(num_runs: int):
    scores = np.random.default_rng(0).normal(size=(num_runs, 7))
    np.testing.assert_allclose(rlscan.iqm(scores, axis=0), stats.trim_mean(scores, 0.25, axis=0))
    np.testing.assert_allclose(rlscan.iqm(scores.T), stats.trim_mean(scores, 0.25, axis=0))


def test_iqm_by_hand():
    assert rlscan.iqm([100.0, 1.0, 2.0, 3.0, 4.0, -100.0, 5.0, 6.0]) == 3.5  # of 2, 3, 4 and 5


def test_the_interval_is_that_of_a_percentile_bootstrap():
    scores = np.random.default_rng(1).normal(size=10)
    theirs = stats.bootstrap(
        (scores,),
        lambda x, axis=-1: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert rlscan.bootstrap_interval(scores) == pytest.approx((theirs.low, theirs.high))
    low, high = rlscan.bootstrap_interval(scores, level=0.5)
    assert theirs.low < low < rlscan.iqm(scores) < high < theirs.high


def test_many_at_once_are_each_as_if_alone():
    scores = np.random.default_rng(2).normal(size=30)
    both = np.stack([scores, 2 * scores], axis=1)
    low, high = rlscan.bootstrap_interval(scores)
    np.testing.assert_allclose(rlscan.bootstrap_interval(both), [[low, 2 * low], [high, 2 * high]])


def test_any_statistic_by_whole_entries():
    scores = np.random.default_rng(3).normal(size=(6, 40))  # of 6 networks, 40 episodes each
    theirs = stats.bootstrap(
        (scores.mean(axis=1),), np.mean, method="percentile", n_resamples=20_000,
        rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    ours = rlscan.bootstrap_interval(scores, statistic=lambda sets: sets.mean(axis=(1, 2)))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_resamples_are_the_same_however_many_are_held(monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(5).normal(size=7)
    at_once = rlscan.bootstrap_interval(scores)
    monkeypatch.setattr(_iqm, "_MOST_NUMBERS", 100)
    assert rlscan.bootstrap_interval(scores) == at_once


def test_one_run_says_nothing_of_others():
    assert np.isnan(rlscan.bootstrap_interval([3.0])).all()
    low, high = rlscan.bootstrap_interval(np.ones((1, 4)))
    assert low.shape == high.shape == (4,) and np.isnan(low).all() and np.isnan(high).all()
