"""Scores of several runs in one number: the interquartile mean, and how sure it is."""

from typing import Any

import numpy as np

_CUT = 0.25  # of the scores on either side


def iqm(scores: Any, axis: int = -1) -> np.ndarray:
    """The interquartile mean: of the scores without the lowest and the highest quarter.

    Of n scores, ⌊n / 4⌋ are left out on either side. Less moved by single runs than the mean, and
    less wasteful than the median.

    **Arguments:**

    - `scores`: one for each run, along `axis`.
    - `axis`: that of the runs.

    **Returns:** the scores' shape without that axis.

    Source: Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*, 2021,
    arXiv:2108.13264.
    """
    scores = np.moveaxis(np.asarray(scores), axis, -1)
    num_scores = scores.shape[-1]
    cut = int(_CUT * num_scores)
    ordered = np.partition(scores, (cut, num_scores - cut - 1), axis=-1)
    return np.asarray(ordered[..., cut : num_scores - cut].mean(axis=-1))


def bootstrap_interval(
    scores: Any, *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of the `iqm` over runs.

    **Arguments:**

    - `scores`: one for each run, `[R]`.
    - `level`: how probable it is to hold the IQM of runs without end.
    - `num_resamples`: of R runs each, drawn with replacement.
    - `seed`: of these draws.

    **Returns:** `(low, high)`.

    Source: Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.
    """
    scores = np.asarray(scores)
    rng = np.random.default_rng(seed)
    resamples = scores[rng.integers(0, len(scores), (num_resamples, len(scores)))]
    tail = 50 * (1 - level)
    low, high = np.percentile(iqm(resamples), [tail, 100 - tail])
    return float(low), float(high)
