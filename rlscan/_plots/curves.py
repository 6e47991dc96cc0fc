"""Learning curves: the metrics of runs, read from their directories and put side by side."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .._core.require import did_you_mean
from ..ppo._metrics import METRICS
from ..runs._config import to_dict
from ..runs._directory import METRICS_FILES
from ..runs._load import load_config
from ..runs._read import Table, read_metrics
from ..runs._scores import bootstrap_interval, iqm

NUM_POINTS = 200  # more than a figure of usual size can show


MOST_SETTINGS = 3  # that a label names, unless it takes more


# What two runs may differ in, and still be two samples of one thing.
_NOT_OF_LEARNING = {"seed", "num_seeds", "num_devices", "compile_cache", "log_interval", "strict"}


_NOT_OF_LEARNING |= {"debug", "loggers", "eval_interval", "eval_episodes", "sweep", "num_samples"}


_NOT_OF_LEARNING |= {"checkpoint_interval", "keep_checkpoints"}


@dataclasses.dataclass
class Group:
    """Runs that differ in their seeds alone."""

    settings: dict[str, Any]  # by dotted keys
    runs: list[Table] = dataclasses.field(default_factory=list)


def read_groups(directories: Sequence[str | Path], file: str = METRICS_FILES[0]) -> list[Group]:
    """The runs of several directories, those of the same settings together, in their order.

    **Raises:** as `read_metrics`; `ValueError` for a directory given twice.
    """
    seen: set[Path] = set()
    groups: list[Group] = []
    for directory in directories:
        if (path := Path(directory).resolve()) in seen:
            raise ValueError(f"{directory} is given twice; its seeds would count double")
        seen.add(path)
        settings = _flat(to_dict(load_config(directory)))
        table = read_metrics(directory, file)
        if not len(table["run"]):
            raise ValueError(
                f"{Path(directory) / file} has no rows yet; wait for the first, or leave it out"
            )
        for run in np.unique(table["run"]):
            rows = {name: column[table["run"] == run] for name, column in table.items()}
            swept = {k: rows[k][0] for k in rows if k in settings and k not in _NOT_OF_LEARNING}
            found = Group({**settings, **swept})
            same = [group for group in groups if group.settings == found.settings]
            (same or groups.append(found) or [found])[0].runs.append(rows)
    return groups


def labels(groups: Sequence[Group]) -> list[str]:
    """What tells the groups apart, in words: the settings that differ, or enough of them."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    told = [key for key in keys if _num_parts(groups, [key]) > 1]
    if len(told) > MOST_SETTINGS:
        differing, told = told, []
        for key in differing:  # one that parts what those before it do not
            if _num_parts(groups, [*told, key]) > _num_parts(groups, told):
                told.append(key)

    def one(group: Group) -> str:
        values = [_told(key, group.settings.get(key)) for key in told]
        count = len(group.runs)
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        return f"{', '.join(values) or group.settings['env.name']} ({seeds})"

    return [one(group) for group in groups]


def _num_parts(groups: Sequence[Group], keys: Sequence[str]) -> int:
    return len({str([group.settings.get(key) for key in keys]) for group in groups})


@dataclasses.dataclass
class Curve:
    """A metric over the environment steps `[P]` of a group of runs."""

    step: Float[np.ndarray, " P"]
    middle: Float[np.ndarray, " P"]  # the IQM over runs; of an audit the largest
    low: Float[np.ndarray, " P"]  # of a 95 % bootstrap interval over runs; NaN for one run
    high: Float[np.ndarray, " P"]


def curve(group: Group, metric: str) -> Curve:
    """One metric of a group of runs.

    Where there are more rows than `NUM_POINTS`, neighbours are put together: episodes by their
    mean, each counted once, audits by the worst, all else by the mean of its rows. Where no episode
    ended, the curve goes straight on to the next that did. Runs of different length are averaged
    for as long as they last.

    **Raises:** `ValueError` for a metric that the runs do not have.
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
    for pattern in np.unique(present, axis=1).T:  # runs that have ended are missing together
        if not pattern.any():
            continue
        here = (present == pattern[:, None]).all(axis=0)
        scores = values[pattern][:, here]
        middle[here] = scores.max(axis=0) if is_audit else iqm(scores, axis=0)
        if not is_audit:
            low[here], high[here] = bootstrap_interval(scores)
    return Curve(edges[1:], middle, low, high)


def _binned(run: Table, metric: str, edges: np.ndarray) -> np.ndarray:
    """The metric between neighbouring edges, gaps filled in a straight line."""
    kept = np.isfinite(run[metric])
    step, value = run["step"][kept], run[metric][kept]
    weight = np.ones(len(step))
    if metric.startswith("episode_") and metric in METRICS:
        weight = run["num_episodes"][kept]
    num_bins = len(edges) - 1
    # Half a step of room: the edges are not whole numbers of steps.
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted keys, without what does not decide what is learned."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix + key not in _NOT_OF_LEARNING:
            flat[prefix + key] = value
    return flat


def _told(key: str, value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if key == "env.name" else f"{key.split('.')[-1]} {short}"
