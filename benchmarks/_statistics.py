"""How scores of several seeds are summed up (Agarwal et al., 2021, arXiv:2108.13264)."""

import numpy as np


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean along the last axis: of what is left without the lowest and the highest
    quarter (each rounded down to whole scores)."""
    ordered = np.sort(scores, axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def bootstrap_interval(
    scores: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the IQM over seeds."""
    generator = np.random.default_rng(seed)
    resampled = generator.choice(scores, size=(resamples, len(scores)), replace=True)
    low, high = np.quantile(iqm(resampled), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
