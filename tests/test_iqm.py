"""The interquartile mean and its interval, against SciPy's."""

import numpy as np
import pytest
from scipy import stats

import rlscan


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


def test_one_run_is_sure_of_nothing_but_itself():
    assert rlscan.bootstrap_interval([3.0]) == (3.0, 3.0)
