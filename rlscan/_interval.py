"""How sure one can be of a statistic: a bootstrap in NumPy, for results that are few."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from ._iqm import iqm

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def _over_first(scores: np.ndarray) -> np.ndarray:
    return iqm(scores, axis=0)


def interval(
    scores: Float[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], Any] = _over_first,
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
