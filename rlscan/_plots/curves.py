"""Learning curves: the metrics of runs, grouped by their settings and averaged over seeds."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .._core.require import did_you_mean
from .._core.tree import flatten_keys
from ..ppo._metrics import METRICS
from ..runs._directory import METRICS_FILES
from ..runs._load import load_settings
from ..runs._read import Table, read_metrics
from ..runs._scores import bootstrap_interval, iqm

NUM_POINTS = 200  # more than a figure of the usual size can resolve
MAX_SETTINGS = 3  # in a label, unless more are needed to tell the groups apart

# Settings in which runs of one group may differ, because they do not affect learning.
_IGNORED = {
    "seed",
    "key",
    "num_seeds",
    "num_devices",
    "compile_cache",
    "log_interval",
    "strict",
    "debug",
}
_IGNORED |= {"loggers", "eval_interval", "eval_episodes", "sweep", "num_samples"}
_IGNORED |= {"strict", "debug", "checkpoint_interval", "keep_checkpoints"}


@dataclasses.dataclass
class Group:
    """Runs that differ only in their seeds."""

    settings: dict[str, Any]  # by dotted keys
    runs: list[Table] = dataclasses.field(default_factory=list)


def read_groups(directories: Sequence[str | Path], file: str = METRICS_FILES[0]) -> list[Group]:
    """Read the runs of several directories, and group those with equal settings.

    **Raises:** as `read_metrics`; `ValueError` for a directory that is given twice or has no rows.
    """
    known: set[Path] = set()
    groups: list[Group] = []
    for directory in directories:
        if (path := Path(directory).resolve()) in known:
            raise ValueError(f"{directory} is given twice; its seeds would count double")
        known.add(path)
        settings = _settings(load_settings(directory)) or {"directory": str(directory)}
        table = read_metrics(directory, file)
        if not len(table["run"]):
            raise ValueError(
                f"{Path(directory) / file} has no rows yet; wait for the first, or leave it out"
            )
        for run in np.unique(table["run"]):
            rows = {name: column[table["run"] == run] for name, column in table.items()}
            # Columns of swept settings have the values of each run.
            values = settings | {key: rows[key][0] for key in rows if key in settings}
            group = next((g for g in groups if g.settings == values), None)
            if group is None:
                groups.append(group := Group(values))
            group.runs.append(rows)
    return groups


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that affect learning, by their dotted keys."""
    flat = flatten_keys({key: value for key, value in config.items() if key not in _IGNORED})
    return {key: value for key, value in flat.items() if value != {}}


def labels(groups: Sequence[Group]) -> list[str]:
    """A label for each group: the settings that differ, or enough of them to be unique."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    shown = [key for key in keys if _num_distinct(groups, [key]) > 1]
    if len(shown) > MAX_SETTINGS:
        differing, shown = shown, []
        for key in differing:
            if _num_distinct(groups, [*shown, key]) > _num_distinct(groups, shown):
                shown.append(key)

    def label(group: Group) -> str:
        values = [_name_and_value(key, group.settings.get(key)) for key in shown]
        count = len(group.runs)
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        return f"{', '.join(values) or group.settings.get('env.name', 'run')} ({seeds})"

    return [label(group) for group in groups]


def _num_distinct(groups: Sequence[Group], keys: Sequence[str]) -> int:
    return len({str([group.settings.get(key) for key in keys]) for group in groups})


@dataclasses.dataclass
class Curve:
    """A metric of a group of runs, as a function of environment steps `[P]`."""

    step: Float[np.ndarray, " P"]
    middle: Float[np.ndarray, " P"]  # the IQM over runs; the maximum for a metric of the audit
    low: Float[np.ndarray, " P"]  # of a 95 % bootstrap interval over runs; NaN for one run
    high: Float[np.ndarray, " P"]


def curve(group: Group, metric: str) -> Curve:
    """Reduce one metric of a group of runs to a curve.

    If there are more rows than `NUM_POINTS`, neighbouring rows are merged: the metrics of episodes
    by their mean over episodes, those of the audit by their maximum, and others by their mean over
    rows. Rows without a finished episode are interpolated. A run that ends earlier than others is
    averaged up to its end.

    **Raises:** `ValueError` for a metric that the runs lack.
    """
    known = group.runs[0]
    if metric not in known:
        names = [name for name in known if name not in ("run", "seed")]
        raise ValueError(
            f"no metric {metric}{did_you_mean(metric, names)}; one of {', '.join(names)}"
        )
    rows = max(len(run["step"]) for run in group.runs)
    last = max((run["step"].max() for run in group.runs if len(run["step"])), default=0.0)
    edges = np.linspace(0, last, min(rows, NUM_POINTS) + 1)
    values = np.stack([_binned(run, metric, edges) for run in group.runs])
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
    return Curve(edges[1:], middle, low, high)


def _binned(run: Table, metric: str, edges: np.ndarray) -> np.ndarray:
    """The metric between neighbouring edges, with gaps interpolated linearly."""
    kept = np.isfinite(run[metric])
    step, value = run["step"][kept], run[metric][kept]
    weight = np.ones(len(step))
    if metric.startswith("episode_") and metric in METRICS:
        weight = run["num_episodes"][kept]
    num_bins = len(edges) - 1
    # Minus half a step, because edges are not integers, and a row ends at its step.
    bins = np.clip(np.searchsorted(edges, step - 0.5, side="right") - 1, 0, num_bins - 1)
    if metric.startswith("audit_"):
        reduced = np.full(num_bins, -math.inf)
        np.maximum.at(reduced, bins, value)
    else:
        total = np.bincount(bins, weight, num_bins)
        with np.errstate(invalid="ignore"):
            reduced = np.bincount(bins, weight * value, num_bins) / total
    filled = np.flatnonzero(np.isfinite(reduced))
    if len(filled) == 0:
        return np.full(num_bins, np.nan)
    here = np.arange(num_bins)
    return np.interp(here, filled, reduced[filled], left=np.nan, right=np.nan)


def _name_and_value(key: str, value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if key == "env.name" else f"{key.split('.')[-1]} {short}"
