"""`Counts`: where the log of a run stands, in plain numbers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class Episodes:
    """Sums over the episodes of several updates."""

    count: int = 0
    total_return: float = 0.0
    total_length: float = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        count = int(metrics["num_episodes"])
        if count:  # else the means are NaN
            self.count += count
            self.total_return += count * metrics["episode_return"]
            self.total_length += count * metrics["episode_length"]

    def means(self) -> dict[str, Any]:
        count = self.count or math.nan
        return {
            "episode_return": self.total_return / count,
            "episode_length": self.total_length / count,
            "num_episodes": self.count,
        }


@dataclasses.dataclass
class Counts:
    """Where a log stands: all that it must know to go on, and so a part of a checkpoint."""

    num_updates: int = 0
    seconds: float = 0.0  # of training
    row_updates: int = 0  # at the last row
    row_seconds: float = 0.0
    # Of each of the runs side by side, mostly one.
    row: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    last_tenth: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    since_checkpoint: list[Episodes] = dataclasses.field(default_factory=lambda: [Episodes()])
    best_return: float = -math.inf  # between two checkpoints, the mean over runs
    best_update: int = 0  # that of the checkpoint after them
    ends: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes of the metrics files

    def at_checkpoint(self) -> "Counts":
        """The same, at the end of a stretch between two checkpoints."""
        returns = returns_of(self.since_checkpoint)
        mean = sum(returns) / len(returns) if returns else math.nan
        best = {"best_return": mean, "best_update": self.num_updates}
        new_best = best if mean > self.best_return else {}
        return dataclasses.replace(self, since_checkpoint=none_yet(len(self.row)), **new_best)


def none_yet(num_runs: int) -> list[Episodes]:
    return [Episodes() for _ in range(num_runs)]


def returns_of(runs: Sequence[Episodes]) -> list[float]:
    """The mean return of each run in which an episode ended."""
    return [run.means()["episode_return"] for run in runs if run.count]


def new_counts(num_runs: int) -> Counts:
    """Before the first update."""
    return Counts(
        row=none_yet(num_runs), last_tenth=none_yet(num_runs), since_checkpoint=none_yet(num_runs)
    )


def counts_from_dict(tree: dict[str, Any]) -> Counts:
    """The counts that `dataclasses.asdict` was given."""
    names = ("row", "last_tenth", "since_checkpoint")
    return Counts(**{**tree, **{name: [Episodes(**one) for one in tree[name]] for name in names}})
