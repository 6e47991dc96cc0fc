"""`Log`: write metrics of updates as rows, to files, loggers and the screen."""

import contextlib
import copy
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._core.screen import printable
from ..ppo._metrics import METRICS
from ._counts import Counts, no_episodes
from ._loggers import Logger, Loggers
from ._metrics_files import PLACE, MetricsFiles
from ._progress import (
    RETURNS,
    Progress,
    format_return,
    format_returns,
    format_seconds,
    in_words,
)
from ._scores import bootstrap_interval, iqm

Labels = Sequence[Mapping[str, Any]]  # the first columns of each run's rows; a single run has none


class Log:
    """The log of one run, or of several side by side, each with its own rows."""

    def __init__(
        self,
        directory: Path,
        counts: Counts,
        *,
        num_updates: int,
        steps_per_update: int,
        labels: Labels,
        log_interval: int,
        loggers: Iterable[Logger],
    ):
        self.counts = counts
        self.labels = labels
        self._directory, self._num_updates = directory, num_updates
        self._steps_per_update, self._log_interval = steps_per_update, log_interval
        self._updates_before, self._seconds_before = counts.num_updates, counts.seconds
        self._compile_seconds: float | None = None
        self._started = time.monotonic()
        self._taken: list[dict[str, np.ndarray]] = []  # updates not yet written
        self._unseen: list[dict[str, Any]] = []  # rows not yet shown
        self._last: list[dict[str, Any]] = []  # the last row of each run
        self._files = MetricsFiles(directory, counts.ends)
        counts.ends = self._files.ends()
        self._loggers = Loggers(loggers, warn=_warn)
        self._progress = Progress(num_updates, done=counts.num_updates)

    def close(self) -> None:
        self._progress.stop()
        self._files.close()
        self._loggers.close()

    @property
    def num_taken(self) -> int:
        """The number of updates of the run, including those not yet written."""
        return self.counts.num_updates + len(self._taken)

    def introduce(self, title: str, *, num_devices: int = 1, is_compiling: bool = False) -> None:
        """Print what the run is and where it is written."""
        updates = _counted(self._num_updates, "update")
        runs = f"{len(self.labels)} runs of " if len(self.labels) > 1 else ""
        on = f" on {num_devices} devices" if num_devices > 1 else ""
        after = f", after the first {self._updates_before:,}" if self._updates_before else ""
        self.say(
            f"{title}: {runs}{updates} of {self._steps_per_update:,} steps{on}{after}, "
            f"into {self._directory}{'; compiling' if is_compiling else ''}"
        )

    def say(self, text: str) -> None:
        self._progress.say(text)

    def compiled(self, seconds: float) -> None:
        self._compile_seconds = seconds
        self.say(f"compiled in {format_seconds(seconds)}")

    def start(self) -> None:
        """Start the clock of training."""
        self._progress.start()
        self._started = time.monotonic() - (self.counts.seconds - self._seconds_before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while something other than training is done."""
        stopped = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - stopped

    def take(self, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of an update, numbers or arrays `[R]`, for `write` to make rows of."""
        shape = (len(self.labels),)
        taken = {}
        for name in _ordered(metrics):
            if name in PLACE or any(name in label for label in self.labels):
                raise ValueError(
                    f"the log writes the column {name!r} itself, but a metric has that name; "
                    "give it another"
                )
            value = np.asarray(metrics[name])
            if value.shape not in ((), shape) or (len(self.labels) > 1 and value.shape == ()):
                wanted = "a number" if len(self.labels) == 1 else f"an array [{shape[0]}]"
                raise ValueError(
                    f"the metric {name} must be {wanted}, got an array of shape {value.shape}; "
                    "reduce it, such as by its mean"
                )
            taken[name] = value.reshape(shape)
        self._taken.append(taken)

    def write(self, *, is_last: bool = False) -> Counts:
        """Write the updates taken since the last call: all of them, or none and an `OSError`.

        **Arguments:**

        - `is_last`: whether the run ends here, so that the last update gets a row in any case.

        **Returns:** the counts after them. Call `show` only after keeping the matching state, so
        that a failing screen cannot separate the two.
        """
        counts = copy.deepcopy(self.counts)
        before, now = counts.seconds, self._seconds_before + time.monotonic() - self._started
        length, rows = len(self._taken), []
        for i, metrics in enumerate(self._taken):
            counts.num_updates += 1
            counts.seconds = before + (now - before) * (i + 1) / length
            rows += self._rows(metrics, counts, is_last=is_last and i == length - 1)
        self._files.write(rows)
        for row in rows:
            self._loggers.log(row)
        counts.ends = self._files.ends()
        self.counts, self._taken, self._unseen = counts, [], rows[-len(self.labels) :]
        self._last = self._unseen or self._last
        return counts

    def log_evaluation(self, rows: Sequence[dict[str, Any]]) -> None:
        """Pass the rows of an evaluation on to the loggers."""
        for row in rows:
            place = {k: row[k] for k in ("update", "step", "run", "seed") if k in row}
            figures = {f"evaluation/{k}": v for k, v in row.items() if k not in place}
            self._loggers.log({**place, **figures})

    def show(self) -> None:
        """Show the last rows on the screen."""
        if not self._unseen:
            return
        first = self._unseen[0]
        speed = first["steps_per_second"] * len(self.labels)
        rows, self._unseen = self._unseen, []
        shown = {**first, "steps_per_second": speed}
        self._progress.update(shown, lambda: self._returns_in_words(rows))

    def sync(self) -> None:
        """Force the rows so far to the disk, so that they survive a crash of the machine."""
        self._files.sync()

    def _rows(
        self, metrics: dict[str, np.ndarray], counts: Counts, *, is_last: bool
    ) -> list[dict[str, Any]]:
        """Count one update, and return a row for each run if rows are due."""
        done = counts.num_updates
        runs = [
            {name: values[i].item() for name, values in metrics.items()}
            for i in range(len(self.labels))
        ]
        for i, one in enumerate(runs):
            counts.row[i].add(one)
            counts.since_checkpoint[i].add(one)
            if done > 0.9 * self._num_updates:
                counts.last_tenth[i].add(one)
        is_last |= done == self._num_updates or all(one.get("diverged", 0) for one in runs)
        if done % self._log_interval and not is_last:
            return []
        steps = (done - counts.row_updates) * self._steps_per_update
        place = {
            "update": done,
            "step": done * self._steps_per_update,
            "seconds": counts.seconds,
            "steps_per_second": steps / max(counts.seconds - counts.row_seconds, 1e-9),
        }
        rows = []
        for label, one, episodes in zip(self.labels, runs, counts.row, strict=True):
            means = {k: v for k, v in episodes.means().items() if k in one}
            rows.append({**label, **place, **one, **(means if "num_episodes" in one else {})})
        counts.row, counts.row_updates = no_episodes(len(runs)), done
        counts.row_seconds = counts.seconds
        return rows

    def _returns_in_words(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Describe the current returns, for several runs those of the best setting."""
        if len(self.labels) == 1:
            return format_returns(rows[0])
        known = [name for name in RETURNS if name in rows[0]]
        if not known:
            return ""
        settings = {name: self._settings([row[name] for row in rows], 1000) for name in known}
        # Missing seeds do not count here, because in a few updates a seed may end no episode.
        best = max(settings[known[0]], key=lambda one: one.order[1])
        words = dict.fromkeys(RETURNS) | {known[0]: best.words}
        for name in known[1:]:
            words[name] = next(one.middle for one in settings[name] if one.name == best.name)
        return in_words(*words.values())

    def _settings(self, returns: Sequence[float], num_resamples: int) -> list["_Setting"]:
        """Summarize each combination of swept numbers over its seeds."""
        groups: dict[str, list[float]] = {}
        for label, value in zip(self.labels, returns, strict=True):
            swept = {k: v for k, v in label.items() if k not in ("run", "seed")}
            name = ", ".join(f"{k} {v:g}" for k, v in swept.items())
            groups.setdefault(name, []).append(value)
        found = []
        for name, values in groups.items():
            scores = [x for x in values if not math.isnan(x)]
            middle = float(iqm(scores)) if scores else math.nan
            words = format_return(middle)
            if len(scores) > 1:
                low, high = bootstrap_interval(scores, num_resamples=num_resamples)
                words = f"IQM {words} [{format_return(low)}, {format_return(high)}]"
            missing = len(values) - len(scores)  # diverged, or no episode ended
            if missing:
                words += f" ({len(scores)} of {len(values)} seeds)"
            order = -missing, middle if scores else -math.inf
            words += f" at {name}" if name else ""
            found.append(_Setting(name, order, words, format_return(middle)))
        return found

    def _summary(self) -> list[str]:
        """The returns in the last tenth of the run, one line for each setting, best first."""
        returns = [run.means()["episode_return"] for run in self.counts.last_tenth]
        found = self._settings(returns, 10_000)
        if len(self.labels) == 1:
            found = [found[0]._replace(words=format_return(returns[0]))]
        recent: dict[str, str] = {}
        if self._last and RETURNS[0] in self._last[0]:
            means = self._settings([row[RETURNS[0]] for row in self._last], 100)
            recent = {one.name: f"{one.middle} (last 100), " for one in means}
        ordered = sorted(found, key=lambda one: one.order, reverse=True)
        return [f"return {recent.get(one.name, '')}{one.words}" for one in ordered]

    def summarize(self) -> None:
        """Print how the run ended."""
        done, seconds = self.counts.num_updates, self.counts.seconds
        steps_per_update = self._steps_per_update * len(self.labels)
        here = (done - self._updates_before) * steps_per_update
        speed = here / max(seconds - self._seconds_before, 1e-9)
        took = ""
        if self._compile_seconds is not None:
            took = f"; compiling took {format_seconds(self._compile_seconds)}"
        if self.counts.stopped is not None:
            ending = f"stopped after {done:,} updates, {self.counts.stopped}"
            where = str(self._directory)
        elif done < self._num_updates:
            ending = f"stopped after {done:,} of {self._num_updates:,} updates"
            where = f"{self._directory}; --resume {self._directory} continues it"
        else:
            best, *others = self._summary()
            ending, where = f"{best} in the last tenth", self._directory
            for other in reversed(others):
                self.say(other)
        self.say(
            f"{done * steps_per_update:,} steps in {format_seconds(seconds)} "
            f"({speed:,.0f} steps/s{took}), {ending}: {where}"
        )


class _Setting(NamedTuple):
    name: str  # the swept numbers
    order: tuple[int, float]  # fewest missing seeds first, then the highest return
    words: str
    middle: str  # the IQM alone


def _ordered(metrics: Mapping[str, Any]) -> list[str]:
    """Order the names of metrics: those of PPO as in `METRICS`, then all others."""
    return [*(n for n in METRICS if n in metrics), *(n for n in metrics if n not in METRICS)]


def _warn(message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed
        print("warning:", printable(" ".join(message.split())), file=sys.stderr)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
