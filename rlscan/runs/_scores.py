"""Scores of several runs in one number: the interquartile mean, and how sure it is.

`scipy.stats` is imported inside the functions: that takes about a second, and a single run needs
none of it.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_CUT = 0.25  # the fraction of the scores that is left out on either side
_MOST_NUMBERS = 2**20  # the most numbers of resamples in memory at a time


def iqm(scores: Any, axis: int = -1) -> np.ndarray:
    """The interquartile mean: the mean without the lowest and the highest quarter.

    Of n scores, ⌊n / 4⌋ are left out on either side. Single runs move it less than they move the
    mean, and it uses more of the scores than the median does.

    **Arguments:**

    - `scores`: one for each run, along `axis`.
    - `axis`: the axis of the runs.

    **Returns:** the scores' shape without that axis; NaN if one of the scores is.

    Source: Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*, 2021,
    arXiv:2108.13264.
    """
    scores = np.asarray(scores)
    if scores.shape[axis] * _CUT < 1:  # nothing is cut
        return np.asarray(scores.mean(axis))
    from scipy.stats import trim_mean

    middle = trim_mean(scores, _CUT, axis=axis)
    # SciPy up to 1.15 sorts NaN last, and cuts it off.
    return np.where(np.isnan(scores).any(axis), np.nan, middle)


def bootstrap_interval(
    scores: Any,
    *,
    statistic: Callable[[np.ndarray], Any] | None = None,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A percentile bootstrap interval for a statistic of the runs, by default their `iqm`.

    **Arguments:**

    - `scores`: `[R]`, one for each run, or `[R, …]`. Entries of the first axis are resampled as a
        whole, so this axis must count what is independent, such as seeds or episodes.
    - `statistic`: computes the statistic for many sets of R entries at once: it takes
        `[sets, R, …]` and returns `[sets, …]`.
    - `level`: the confidence level.
    - `num_resamples`: the number of sets of R entries, drawn with replacement.
    - `seed`: the seed of these draws.

    **Returns:** `(low, high)`: floats, or arrays if the statistic of one set is an array. NaN for
    R = 1, because one run says nothing about others.

    Source: Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.
    """
    scores = np.asarray(scores)
    of_each = (lambda sets: iqm(sets, axis=1)) if statistic is None else statistic
    num_runs = len(scores)
    if num_runs == 1:  # SciPy refuses it
        unknown = np.full_like(of_each(scores[None])[0], np.nan, dtype=float)[()]
        return unknown, unknown
    from scipy.stats import DegenerateDataWarning, bootstrap

    def of_indices(indices: np.ndarray, axis: int) -> np.ndarray:
        """The statistic of each set of indices, with the sets along the last axis, as in SciPy."""
        return np.moveaxis(np.asarray(of_each(scores[indices])), 0, -1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # about NaN, which is the answer
        # Indices are resampled, not numbers, because SciPy would resample each column by itself.
        found = bootstrap(
            (np.arange(num_runs),),
            of_indices,
            vectorized=True,
            method="percentile",
            confidence_level=level,
            n_resamples=num_resamples,
            batch=max(_MOST_NUMBERS // scores.size, 1),
            rng=np.random.default_rng(seed),
        )
    return found.confidence_interval.low, found.confidence_interval.high
