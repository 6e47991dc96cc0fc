"""`Counts`: the position of a run's log, in plain numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ._metrics_files import METRICS_FILES


@dataclasses.dataclass
class Episodes:
    """Sums over the episodes of several updates."""

    count: int = 0
    total_return: float = 0.0
    total_length: float = 0.0

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add the episodes of an update, from its metrics."""
        mean_return = metrics.get("episode_return", math.nan)
        # A loop that reports no number of episodes counts as one episode per update.
        count = int(metrics.get("num_episodes", not math.isnan(mean_return)))
        if count:  # otherwise the means are NaN
            self.count += count
            self.total_return += count * mean_return
            self.total_length += count * metrics.get("episode_length", math.nan)

    def means(self) -> dict[str, Any]:
        """The metrics of these episodes."""
        count = self.count or math.nan
        return {
            "episode_return": self.total_return / count,
            "episode_length": self.total_length / count,
            "num_episodes": self.count,
        }


@dataclasses.dataclass
class Counts:
    """Everything that a log needs to continue. It is part of every checkpoint."""

    num_updates: int = 0
    seconds: float = 0.0  # seconds of training
    row_updates: int = 0  # `num_updates` at the last row
    row_seconds: float = 0.0
    # One entry for each of the runs trained side by side.
    row: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    last_tenth: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    since_checkpoint: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    best_return: float = -math.inf  # the best mean over runs between two checkpoints
    best_update: int = 0  # the update of the checkpoint that followed
    ends: dict[str, int] = dataclasses.field(default_factory=dict)  # lengths of the metrics files
    stopped: str | None = None  # why a callback ended the run, if one did

    def at_checkpoint(self) -> "Counts":
        """Start a new stretch at a checkpoint, and record the last one if it was the best."""
        returns = mean_returns(self.since_checkpoint)
        mean = sum(returns) / len(returns) if returns else math.nan
        best = {"best_return": mean, "best_update": self.num_updates}
        new_best = best if mean > self.best_return else {}
        return dataclasses.replace(self, since_checkpoint=no_episodes(len(self.row)), **new_best)


def no_episodes(num_runs: int) -> list[Episodes]:
    return [Episodes() for _ in range(num_runs)]


def mean_returns(runs: Sequence[Episodes]) -> list[float]:
    """The mean return of each run in which an episode ended."""
    return [run.means()["episode_return"] for run in runs if run.count]


def new_counts(num_runs: int) -> Counts:
    """The counts before the first update."""
    return Counts(
        row=no_episodes(num_runs),
        last_tenth=no_episodes(num_runs),
        since_checkpoint=no_episodes(num_runs),
    )


def check_counts(counts: Counts, num_runs: int) -> None:
    """Raise `ValueError` for counts in a checkpoint that are not those of so many runs."""
    done = counts.num_updates
    if done < 1:  # a run without an update has no checkpoint, and would start again
        raise ValueError(f"counts.num_updates must be 1 or more, got {done}")
    for name in ("row_updates", "best_update"):
        if not 0 <= (found := getattr(counts, name)) <= done:
            raise ValueError(f"counts.{name} must be from 0 to {done}, got {found}")
    for name in ("row", "last_tenth", "since_checkpoint"):
        if (found := len(getattr(counts, name))) != num_runs:
            raise ValueError(f"counts.{name} must have {num_runs} entries, got {found}")
    if counts.ends.keys() != set(METRICS_FILES) or min(counts.ends.values()) < 0:
        raise ValueError(f"counts.ends must have the lengths of {' and '.join(METRICS_FILES)}")
