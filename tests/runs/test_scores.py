"""The interquartile mean and its interval, against NumPy and loops of our own."""

import subprocess
import sys

import numpy as np
import pytest

import rlscan
from rlscan.runs import _scores


@pytest.mark.parametrize("num_runs", [1, 2, 3, 4, 5, 10, 16])
def test_iqm_is_the_mean_of_the_middle_half(num_runs: int):
    scores = np.random.default_rng(0).normal(size=(num_runs, 7))
    middle = np.sort(scores, axis=0)[num_runs // 4 : num_runs - num_runs // 4]
    np.testing.assert_allclose(rlscan.runs.iqm(scores, axis=0), middle.mean(axis=0))
    np.testing.assert_allclose(rlscan.runs.iqm(scores.T), middle.mean(axis=0))


def test_iqm_of_an_unknown_score_is_unknown():
    """Sorting would put NaN among the highest scores, which are left out."""
    assert np.isnan(rlscan.runs.iqm([1.0, np.nan, 3.0, 4.0, 5.0]))


def test_iqm_by_hand():
    # The mean of 2, 3, 4 and 5.
    assert rlscan.runs.iqm([100.0, 1.0, 2.0, 3.0, 4.0, -100.0, 5.0, 6.0]) == 3.5


def test_the_interval_equals_a_percentile_bootstrap():
    scores = np.random.default_rng(1).normal(size=10)
    resamples = scores[np.random.default_rng(0).integers(10, size=(10_000, 10))]
    theirs = np.percentile(np.sort(resamples)[:, 2:8].mean(axis=1), [2.5, 97.5])
    assert rlscan.runs.bootstrap_interval(scores) == pytest.approx(theirs)
    low, high = rlscan.runs.bootstrap_interval(scores, level=0.5)
    assert theirs[0] < low < rlscan.runs.iqm(scores) < high < theirs[1]


def test_many_intervals_at_once_equal_single_ones():
    scores = np.random.default_rng(2).normal(size=30)
    both = np.stack([scores, 2 * scores], axis=1)
    low, high = rlscan.runs.bootstrap_interval(scores)
    np.testing.assert_allclose(
        rlscan.runs.bootstrap_interval(both), [[low, 2 * low], [high, 2 * high]]
    )


def test_any_statistic_resamples_whole_entries():
    scores = np.random.default_rng(3).normal(size=(6, 40))  # 6 networks, 40 episodes each
    resamples = np.random.default_rng(4).choice(scores.mean(axis=1), (20_000, 6))
    theirs = np.percentile(resamples.mean(axis=1), [2.5, 97.5])
    ours = rlscan.runs.bootstrap_interval(scores, statistic=lambda sets: sets.mean(axis=(1, 2)))
    assert ours == pytest.approx(theirs, abs=0.01)


def test_a_statistic_of_several_numbers():
    """A statistic returns an axis of resamples first, and its own shape is returned."""
    scores = np.random.default_rng(6).normal(size=(9, 2, 3))
    low, high = rlscan.runs.bootstrap_interval(scores, statistic=lambda sets: sets.mean(axis=1))
    assert low.shape == high.shape == (2, 3)
    alone = rlscan.runs.bootstrap_interval(
        scores[:, 1, 2], statistic=lambda sets: sets.mean(axis=1)
    )
    assert (low[1, 2], high[1, 2]) == pytest.approx(alone)


def test_resamples_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(5).normal(size=7)
    at_once = rlscan.runs.bootstrap_interval(scores)
    monkeypatch.setattr(_scores, "_MOST_NUMBERS", 100)
    assert rlscan.runs.bootstrap_interval(scores) == at_once


def test_one_run_has_no_interval():
    assert np.isnan(rlscan.runs.bootstrap_interval([3.0])).all()
    low, high = rlscan.runs.bootstrap_interval(np.ones((1, 4)))
    assert low.shape == high.shape == (4,) and np.isnan(low).all() and np.isnan(high).all()


def test_an_unknown_score_makes_an_unknown_interval():
    """It does so quietly: SciPy's warning would be an error in this suite."""
    assert np.isnan(rlscan.runs.bootstrap_interval([1.0, np.nan, 2.0])).all()


@pytest.mark.slow
def test_importing_rlscan_does_not_wait_for_scipy():
    """Importing `scipy.stats` takes about as long as the rest of a warm start."""
    code = "import sys, rlscan; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
