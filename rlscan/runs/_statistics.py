"""Statistics of algorithms over several tasks, with several runs of each task.

The scores of an algorithm are one array `[R]` for each task, whose numbers of runs may differ. The
formulas are those of rliable: Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*,
2021, arXiv:2108.13264.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ._scores import iqm

Scores = Sequence[Float[np.ndarray, "..."]]  # `[R]` for each task, with sets in front

_MOST_NUMBERS = 2**22  # that a statistic may hold at a time


class Estimate(NamedTuple):
    """A statistic with its 95 % bootstrap interval, NaN if no task has two runs."""

    value: Any
    low: Any
    high: Any


def estimate(
    statistic: Callable[..., Any],
    *algorithms: Scores,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Compute a statistic, with an interval from a stratified bootstrap.

    In each resample, the runs of every task are drawn with replacement from those of this task.

    **Arguments:**

    - `statistic`: takes the scores of each algorithm, arrays `[sets, R]` for each task, and returns
        `[sets, …]`.
    - `algorithms`: the scores of each, arrays `[R]`, or `[R, …]` if a score is an array.
    - `level`: the confidence level.
    - `num_resamples`: the number of resamples.
    - `seed`: the seed of the draws.
    """
    value = statistic(*([task[None] for task in scores] for scores in algorithms))[0]
    if all(len(task) == 1 for scores in algorithms for task in scores):
        unknown = np.full(np.shape(value), np.nan)[()]
        return Estimate(value, unknown, unknown)
    found = [statistic(*sets) for sets in _resamples(algorithms, num_resamples, seed)]
    part = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(found), [part, 100 - part], axis=0)
    return Estimate(value, low, high)


def _resamples(algorithms: Sequence[Scores], number: int, seed: int) -> Iterator[list[Scores]]:
    """Resamples of the scores, in batches."""
    rng = np.random.default_rng(seed)
    # A pair of algorithms is compared run by run.
    most = max(task.size * len(task) ** (len(algorithms) - 1) for s in algorithms for task in s)
    size = max(1, min(number, _MOST_NUMBERS // most))
    for start in range(0, number, size):
        shape = min(size, number - start)
        yield [
            [task[rng.integers(len(task), size=(shape, len(task)))] for task in scores]
            for scores in algorithms
        ]


def pooled_iqm(scores: Scores) -> Float[np.ndarray, "sets ..."]:
    """The interquartile mean over the runs of all tasks; a score may be an array."""
    return iqm(np.concatenate(scores, axis=1), axis=1)


def probability_of_improvement(x: Scores, y: Scores) -> Float[np.ndarray, " sets"]:
    """The probability that a run of X scores higher than one of Y on the same task.

    Equal scores count one half. Each task has the same weight, and X and Y have the same tasks.
    """
    of_tasks = []
    for one, other in zip(x, y, strict=True):
        difference = one[..., :, None] - other[..., None, :]
        of_tasks.append((0.5 * (np.sign(difference) + 1)).mean(axis=(-2, -1)))
    return np.mean(of_tasks, axis=0)


def performance_profile(
    scores: Scores, thresholds: Float[np.ndarray, " K"]
) -> Float[np.ndarray, "sets K"]:
    """The fraction of runs that score above each threshold; each task has the same weight."""
    above = [
        np.stack([(task > threshold).mean(axis=-1) for threshold in thresholds], axis=-1)
        for task in scores
    ]
    return np.mean(above, axis=0)
