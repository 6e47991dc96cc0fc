"""Interquartile means, and how sure one can be of them: in NumPy, for results that are few."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def iqm(scores: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "..."] | np.floating:
    """The interquartile mean over the first axis: of what is left without ⌊n / 4⌋ at either end.

    Source: Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*, 2021,
    arXiv:2108.13264.
    """
    cut = len(scores) // 4
    return np.sort(scores, axis=0)[cut : len(scores) - cut].mean(axis=0)


def interval(
    scores: Float[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], Any] = iqm,
) -> tuple[Any, Any]:
    """A bootstrap interval of a statistic, 95 %, by the percentiles of its resamples.

    **Arguments:**

    - `scores`: `[n, …]`. What is drawn again, with replacement, are whole entries of the first
        axis: n is to count what is independent, such as seeds or episodes.
    - `statistic`: over the first axis.

    **Returns:** `(low, high)`, as the statistic; the same every time. Both NaN for n = 1.
    """
    n = len(scores)
    if n == 1:
        unknown = np.full(np.shape(statistic(scores)), np.nan)
        return unknown, unknown
    rng = np.random.default_rng(0)
    resampled = [statistic(scores[rng.integers(n, size=n)]) for _ in range(NUM_RESAMPLES)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    return low, high
