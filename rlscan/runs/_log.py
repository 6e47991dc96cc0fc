"""`Log`: brings the metrics of updates to the files and to the screen, and counts them."""

import contextlib
import copy
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._build import members
from ._config import Config, to_dict
from ._counts import Counts, none_yet
from ._directory import COLUMNS, MetricsFiles
from ._loggers import Loggers, make_loggers
from ._progress import Progress, format_return, format_seconds
from ._scores import bootstrap_interval, iqm


class Log:
    """Of one run, or of several side by side, which then have rows of their own.

    A context, in which the files are open and the terminal may show a bar.
    """

    def __init__(self, config: Config, directory: Path, num_updates: int, counts: Counts):
        self.counts = counts
        self._config, self._directory, self._num_updates = config, directory, num_updates
        self._members = members(config)
        self._is_single = len(self._members) == 1
        self._steps_per_update = config.ppo.num_envs * config.ppo.num_steps
        self._updates_before, self._seconds_before = counts.num_updates, counts.seconds
        self._compile_seconds = 0.0
        self._started = time.monotonic()
        self._unseen: list[dict[str, Any]] = []

    def __enter__(self) -> "Log":
        columns = [*self._labels(0), *COLUMNS]
        self._files = MetricsFiles(self._directory, self.counts.ends, columns)
        self.counts.ends = self._files.ends()
        named = make_loggers(self._config.loggers, self._directory, config=to_dict(self._config))
        self._loggers = Loggers(named, warn=_warn)
        self._progress = Progress(self._num_updates, done=self.counts.num_updates)
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()
        self._files.close()
        self._loggers.close()

    def labels(self) -> list[dict[str, Any]] | None:
        """What the rows of each run begin with; `None` for a single one."""
        return None if self._is_single else [self._labels(i) for i in range(len(self._members))]

    def introduce(self) -> None:
        updates = _counted(self._num_updates, "update")
        runs = "" if self._is_single else f"{len(self._members)} runs of "
        devices = self._config.num_devices or 1
        on = f" on {devices} devices" if devices > 1 else ""
        after = f", after the first {self._updates_before:,}" if self._updates_before else ""
        self.say(
            f"{self._config.env.name}: {runs}{updates} of {self._steps_per_update:,} steps"
            f"{on}{after}, into {self._directory}; compiling"
        )

    def say(self, text: str) -> None:
        self._progress.say(text)

    def compiled(self, seconds: float) -> None:
        self._compile_seconds = seconds
        self.say(f"compiled in {format_seconds(seconds)}")
        self._progress.start()
        self._started = time.monotonic()

    def write(self, metrics: dict[str, Any]) -> Counts:
        """Takes in what a call returned: all of it, or `OSError` and none.

        **Arguments:**

        - `metrics`: on the host, `[updates]`, or `[runs, updates]` of several.

        **Returns:** where the log stands now. `show` is to be called after it, and after the state
        that the call returned is kept: a screen that fails must not part the two.
        """
        counts = copy.deepcopy(self.counts)
        before, now = counts.seconds, self._seconds_before + time.monotonic() - self._started
        metrics = {n: x[None] if self._is_single else x for n, x in metrics.items()}
        length = metrics["num_episodes"].shape[1]
        rows = []
        for i in range(length):
            counts.num_updates += 1
            counts.seconds = before + (now - before) * (i + 1) / length
            rows += self._take({name: values[:, i] for name, values in metrics.items()}, counts)
        self._files.write(rows)
        for row in rows:
            self._loggers.log(row)
        counts.ends = self._files.ends()
        self.counts, self._unseen = counts, rows[-len(self._members) :]
        return counts

    def evaluated(self, rows: list[dict[str, Any]]) -> None:
        """Takes in the rows of an evaluation, and no time as that of training."""
        for row in rows:
            place = {k: row[k] for k in ("update", "step", "run", "seed") if k in row}
            figures = {f"evaluation/{k}": v for k, v in row.items() if k not in place}
            self._loggers.log({**place, **figures})
        self._started = time.monotonic() - (self.counts.seconds - self._seconds_before)

    def show(self) -> None:
        """Brings the last rows to the screen."""
        if not self._unseen:
            return
        first = self._unseen[0]
        speed = first["steps_per_second"] * len(self._members)
        returns = [row["episode_return"] for row in self._unseen]
        shown = {**first, "steps_per_second": speed}
        self._progress.update(shown, lambda: self._in_words(returns))
        self._unseen = []

    def sync(self) -> None:
        """The rows so far are on the disk after that, whatever becomes of the machine."""
        self._files.sync()

    def _take(self, metrics: dict[str, Any], counts: Counts) -> list[dict[str, Any]]:
        """Takes in one update, `[runs]`; returns a row for each run if they are due."""
        done = counts.num_updates
        of_runs = [
            {name: values[i].item() for name, values in metrics.items()}
            for i in range(len(self._members))
        ]
        for i, one in enumerate(of_runs):
            counts.row[i].add(one)
            counts.since_checkpoint[i].add(one)
            if done > 0.9 * self._num_updates:
                counts.last_tenth[i].add(one)
        is_over = done == self._num_updates or (self._is_single and of_runs[0]["diverged"])
        if done % self._config.log_interval and not is_over:
            return []
        steps = (done - counts.row_updates) * self._steps_per_update
        shared = {
            "update": done,
            "step": done * self._steps_per_update,
            "seconds": counts.seconds,
            "steps_per_second": steps / max(counts.seconds - counts.row_seconds, 1e-9),
        }
        rows = [
            {**self._labels(i), **shared, **one, **counts.row[i].means()}
            for i, one in enumerate(of_runs)
        ]
        counts.row, counts.row_updates = none_yet(len(of_runs)), done
        counts.row_seconds = counts.seconds
        return rows

    def _labels(self, run: int) -> dict[str, Any]:
        """The first columns of a run among several."""
        member = self._members[run]
        return {} if self._is_single else {"run": run, "seed": member.seed, **member.swept}

    def _in_words(self, returns: Sequence[float]) -> str:
        """The return of a run, as it goes; of several that of the best setting, over its seeds."""
        if self._is_single:
            return f"return {format_return(returns[0])}"
        # By the return alone: in a few updates a seed may well end no episode.
        best = max(self._settings(returns, 1000), key=lambda one: one.order[1])
        return f"return {best.words}"

    def _settings(self, returns: Sequence[float], num_resamples: int) -> list["_Setting"]:
        """What each combination of swept numbers has reached, over its seeds."""
        num_seeds = self._config.num_seeds
        found = []
        for i in range(0, len(returns), num_seeds):
            scores = [x for x in returns[i : i + num_seeds] if not math.isnan(x)]
            swept = ", ".join(f"{k} {v:g}" for k, v in self._members[i].swept.items())
            middle = float(iqm(scores)) if scores else math.nan
            words = format_return(middle)
            if len(scores) > 1:
                low, high = bootstrap_interval(scores, num_resamples=num_resamples)
                words = f"IQM {words} [{format_return(low)}, {format_return(high)}]"
            at = f" at {swept}" if swept else ""
            missing = num_seeds - len(scores)  # they diverged, or no episode of theirs ended
            of = f" ({len(scores)} of {num_seeds} seeds)" if missing else ""
            order = -missing, middle if scores else -math.inf
            found.append(_Setting(order, words + of + at))
        return found

    def _summary(self) -> list[str]:
        """Returns in the last tenth, of each setting."""
        returns = [run.means()["episode_return"] for run in self.counts.last_tenth]
        if self._is_single:
            return [f"return {format_return(returns[0])}"]
        ordered = sorted(self._settings(returns, 10_000), key=lambda one: one.order, reverse=True)
        return [f"return {one.words}" for one in ordered]

    def summarize(self) -> None:
        done, seconds = self.counts.num_updates, self.counts.seconds
        steps_per_update = self._steps_per_update * len(self._members)
        here = (done - self._updates_before) * steps_per_update
        speed = here / max(seconds - self._seconds_before, 1e-9)
        took = f"compiling took {format_seconds(self._compile_seconds)}"
        if done < self._num_updates:
            ending = f"stopped after {done:,} of {self._num_updates:,} updates"
            where = f"{self._directory}; --resume {self._directory} goes on"
        else:
            best, *others = self._summary()
            ending, where = f"{best} in the last tenth", self._directory
            for other in reversed(others):
                self.say(other)
        self.say(
            f"{done * steps_per_update:,} steps in {format_seconds(seconds)} "
            f"({speed:,.0f} steps/s; {took}), {ending}: {where}"
        )


def _warn(message: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone
        print("warning:", " ".join(message.split()), file=sys.stderr)


class _Setting(NamedTuple):
    order: tuple[int, float]  # no seed missing, then the return
    words: str


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
