"""What is said of several seeds: the IQM, and its bootstrap interval."""

import numpy as np
from scipy import stats


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean (Agarwal et al., 2021, arXiv:2108.13264)."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interval(scores: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the IQM over seeds."""
    if np.ptp(scores) == 0:  # of which SciPy warns
        return float(scores[0]), float(scores[0])
    bounds = stats.bootstrap(
        (scores,), iqm, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(bounds.low), float(bounds.high)
