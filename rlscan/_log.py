"""`Log`: brings the metrics of updates to the files and to the screen, and counts them."""

import copy
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from ._config import Config
from ._progress import Progress, format_return, format_seconds
from ._run_dir import MetricsFiles


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
    row: Episodes = dataclasses.field(default_factory=Episodes)
    last_tenth: Episodes = dataclasses.field(default_factory=Episodes)
    since_checkpoint: Episodes = dataclasses.field(default_factory=Episodes)
    best_return: float = -math.inf  # between two checkpoints
    best_update: int = 0  # that of the checkpoint after them
    ends: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes of the metrics files

    def at_checkpoint(self) -> "Counts":
        """The same, at the end of a stretch between two checkpoints."""
        mean = self.since_checkpoint.means()["episode_return"]
        best = {"best_return": mean, "best_update": self.num_updates}
        new_best = best if mean > self.best_return else {}
        return dataclasses.replace(self, since_checkpoint=Episodes(), **new_best)


def counts_from_dict(tree: dict[str, Any]) -> Counts:
    """The counts that `dataclasses.asdict` was given."""
    episodes = {name: Episodes(**tree[name]) for name in ("row", "last_tenth", "since_checkpoint")}
    return Counts(**{**tree, **episodes})


class Log:
    """Of one run. A context, in which the files are open and the terminal may show a bar."""

    def __init__(self, config: Config, directory: Path, num_updates: int, counts: Counts):
        self.counts = counts
        self._config, self._directory, self._num_updates = config, directory, num_updates
        self._steps_per_update = config.ppo.num_envs * config.ppo.num_steps
        self._updates_before, self._seconds_before = counts.num_updates, counts.seconds
        self._compile_seconds = 0.0
        self._started = time.monotonic()
        self._unseen: list[dict[str, Any]] = []

    def __enter__(self) -> "Log":
        self._files = MetricsFiles(self._directory, self.counts.ends)
        self.counts.ends = self._files.ends()
        self._progress = Progress(self._num_updates, done=self.counts.num_updates)
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()
        self._files.close()

    def introduce(self) -> None:
        updates = _counted(self._num_updates, "update")
        devices = self._config.num_devices or 1
        on = f" on {devices} devices" if devices > 1 else ""
        after = f", after the first {self._updates_before:,}" if self._updates_before else ""
        self.say(
            f"{self._config.env.name}: {updates} of {self._steps_per_update:,} steps{on}{after}, "
            f"into {self._directory}; compiling"
        )

    def say(self, text: str) -> None:
        self._progress.say(text)

    def compiled(self, seconds: float) -> None:
        self._compile_seconds = seconds
        self.say(f"compiled in {format_seconds(seconds)}")
        self._progress.start()
        self._started = time.monotonic()

    def write(self, metrics: dict[str, Any]) -> Counts:
        """Takes in what a call returned, `[updates_per_call]`: all of it, or `OSError` and none.

        **Returns:** where the log stands now. `show` is to be called after it, and after the state
        that the call returned is kept: a screen that fails must not part the two.
        """
        counts = copy.deepcopy(self.counts)
        before, now = counts.seconds, self._seconds_before + time.monotonic() - self._started
        length = len(metrics["num_episodes"])
        rows = []
        for i in range(length):
            counts.num_updates += 1
            counts.seconds = before + (now - before) * (i + 1) / length
            one = {name: values[i].item() for name, values in metrics.items()}
            if (row := self._take(one, counts)) is not None:
                rows.append(row)
        self._files.write(rows)
        counts.ends = self._files.ends()
        self.counts, self._unseen = counts, rows[-1:]
        return counts

    def show(self) -> None:
        """Brings the last row to the screen."""
        for row in self._unseen:
            self._progress.update(row)
        self._unseen = []

    def sync(self) -> None:
        """The rows so far are on the disk after that, whatever becomes of the machine."""
        self._files.sync()

    def _take(self, metrics: dict[str, Any], counts: Counts) -> dict[str, Any] | None:
        """Takes in one update; returns a row if one is due."""
        counts.row.add(metrics)
        counts.since_checkpoint.add(metrics)
        if counts.num_updates > 0.9 * self._num_updates:
            counts.last_tenth.add(metrics)
        if (
            counts.num_updates % self._config.log_interval
            and counts.num_updates < self._num_updates
        ):
            return None
        steps = (counts.num_updates - counts.row_updates) * self._steps_per_update
        row = {
            "update": counts.num_updates,
            "step": counts.num_updates * self._steps_per_update,
            "seconds": counts.seconds,
            "steps_per_second": steps / max(counts.seconds - counts.row_seconds, 1e-9),
            **metrics,
            **counts.row.means(),
        }
        counts.row, counts.row_updates = Episodes(), counts.num_updates
        counts.row_seconds = counts.seconds
        return row

    def summarize(self) -> None:
        done, seconds = self.counts.num_updates, self.counts.seconds
        speed = (
            (done - self._updates_before)
            * self._steps_per_update
            / max(seconds - self._seconds_before, 1e-9)
        )
        took = f"compiling took {format_seconds(self._compile_seconds)}"
        if done < self._num_updates:
            ending = f"stopped after {done:,} of {self._num_updates:,} updates"
            where = f"{self._directory}; --resume {self._directory} goes on"
        else:
            mean = self.counts.last_tenth.means()["episode_return"]
            ending, where = f"return {format_return(mean)} in the last tenth", self._directory
        self.say(
            f"{done * self._steps_per_update:,} steps in {format_seconds(seconds)} "
            f"({speed:,.0f} steps/s; {took}), {ending}: {where}"
        )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
