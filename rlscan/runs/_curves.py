"""Learning curves: metrics of groups of runs, averaged over seeds."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from .._core.require import did_you_mean
from ..ppo._metrics import METRICS
from ._groups import Group
from ._read import Table
from ._scores import bootstrap_interval, iqm

NUM_POINTS = 200  # more than a figure of the usual size can resolve


@dataclasses.dataclass
class Curve:
    """A metric of a group of runs, as a function of environment steps `[P]`."""

    step: Float[np.ndarray, " P"]
    middle: Float[np.ndarray, " P"]  # the IQM over runs; the maximum for a metric of the audit
    low: Float[np.ndarray, " P"]  # of a 95 % bootstrap interval over runs; NaN for one run
    high: Float[np.ndarray, " P"]


def curve(group: Group, metric: str, *, smoothing: int = 0) -> Curve:
    """Reduce one metric of a group of runs to a curve.

    If there are more rows than `NUM_POINTS`, neighbouring rows are merged: the metrics of episodes
    by their mean over episodes, those of the audit by their maximum, and others by their mean over
    rows. Rows without a finished episode are interpolated. A run that ends earlier than others is
    averaged up to its end.

    **Arguments:**

    - `group`: runs that differ only in their seeds.
    - `metric`: the name of a column.
    - `smoothing`: environment steps; each point averages over those before it, in each run. A
        metric of the audit is never smoothed.

    **Raises:** `ValueError` for a metric that the runs lack.
    """
    step, values = binned(group, metric, smoothing=smoothing)
    middle, low, high = np.full((3, values.shape[1]), np.nan)
    is_audit = metric.startswith("audit_")
    present = np.isfinite(values)
    # Points are reduced together if the same runs have a value there.
    for pattern in np.unique(present, axis=1).T:
        if not pattern.any():
            continue
        here = (present == pattern[:, None]).all(axis=0)
        scores = values[pattern][:, here]
        middle[here] = scores.max(axis=0) if is_audit else iqm(scores, axis=0)
        if not is_audit:
            low[here], high[here] = bootstrap_interval(scores)
    return Curve(step, middle, low, high)


def binned(
    group: Group, metric: str, *, smoothing: int = 0
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, "R P"]]:
    """The steps of a curve, and the metric of each run there; see `curve`."""
    if (known := next((run for run in group.runs if metric not in run), None)) is not None:
        names = [name for name in known if name not in ("run", "seed")]
        raise ValueError(
            f"no metric {metric}{did_you_mean(metric, names)}; one of {', '.join(names)}"
        )
    rows = max(len(run["step"]) for run in group.runs)
    last = max((run["step"].max() for run in group.runs if len(run["step"])), default=0.0)
    edges = np.linspace(0, last, min(rows, NUM_POINTS) + 1)
    window = max(1, round(smoothing * (len(edges) - 1) / max(last, 1)))
    values = np.stack([_binned(run, metric, edges, window) for run in group.runs])
    return edges[1:], values


def _binned(run: Table, metric: str, edges: np.ndarray, window: int) -> np.ndarray:
    """The metric between neighbouring edges, with gaps interpolated linearly.

    Each bin averages over the last `window` bins.
    """
    kept = np.isfinite(run[metric])
    step, value = run["step"][kept], run[metric][kept]
    weight = np.ones(len(step))
    if metric.startswith("episode_") and metric in METRICS and "num_episodes" in run:
        weight = run["num_episodes"][kept]
    num_bins = len(edges) - 1
    # Minus half a step, because edges are not integers, and a row ends at its step.
    bins = np.clip(np.searchsorted(edges, step - 0.5, side="right") - 1, 0, num_bins - 1)
    if metric.startswith("audit_"):
        reduced = np.full(num_bins, -math.inf)
        np.maximum.at(reduced, bins, value)
    else:
        total, weights = (
            _moving_sum(np.bincount(bins, x, num_bins), window) for x in (weight * value, weight)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            reduced = np.where(weights > 0, total / weights, np.nan)
        reduced[bins.max(initial=-1) + 1 :] = np.nan  # the run has ended
    filled = np.flatnonzero(np.isfinite(reduced))
    if len(filled) == 0:
        return np.full(num_bins, np.nan)
    here = np.arange(num_bins)
    return np.interp(here, filled, reduced[filled], left=np.nan, right=np.nan)


def _moving_sum(x: np.ndarray, window: int) -> np.ndarray:
    """The sum over the last `window` entries up to each one."""
    return x if window == 1 else np.convolve(x, np.ones(window))[: len(x)]
