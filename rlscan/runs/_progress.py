"""`Progress`: a progress bar on a terminal or in a notebook, lines of text elsewhere."""

import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from .._core.screen import discard_stdout, printable

LINES_PER_RUN = 20
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REFRESHES = 0.1

RETURNS = ("return_mean_100", "episode_return")  # the metrics that are shown
_ROOM = 4  # columns right of the bar, for the ^C that a terminal writes there; twice


class Progress:
    """The progress of a run, on stdout, which may be closed at any time."""

    def __init__(self, num_updates: int, *, done: int = 0):
        """**Arguments:**

        - `num_updates`: the number of updates of the whole run.
        - `done`: how many of them were made in earlier sessions.
        """
        self.console = _console()
        self._num_updates = num_updates
        self._started = self._shown = time.monotonic()
        self._part_before = done / num_updates
        self._next_line = math.floor(self._part_before * LINES_PER_RUN) + 1  # up to LINES_PER_RUN
        self._bar: Any = None
        self._widths: dict[str, int] = {}  # of the texts beside the bar
        if _shows_bars(self.console):
            self._bar = _bar(self.console)
            shown = {"total": num_updates, "completed": done, "speed": "", "episode_return": ""}
            self._task = self._bar.add_task("", **shown)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one. An `OSError` names stdout."""
        try:
            self.console.print(printable(text), markup=False)
        except OSError as error:
            self.console.silence()
            raise OSError(error.errno, error.strerror, "standard output") from None

    def start(self) -> None:
        """Start the clock, and show the bar."""
        self._started = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.start()

    def update(self, row: dict[str, Any], returned: Callable[[], str] | None = None) -> None:
        """Show a row of the metrics if it is due.

        **Arguments:**

        - `row`: a row of the metrics.
        - `returned`: makes the text about returns; called only if the row is due. Defaults to those
            in the row.
        """
        now = time.monotonic()
        last = row["update"] == self._num_updates
        speed = f"{row['steps_per_second']:,.0f} steps/s"
        returned = returned or (lambda: format_returns(row))
        if self._bar is not None:
            if last or now - self._shown >= SECONDS_BETWEEN_REFRESHES:
                self._shown = now
                self._bar.update(
                    self._task,
                    completed=row["update"],
                    refresh=True,
                    speed=self._padded("speed", speed),
                    episode_return=self._padded("episode_return", returned()),
                )
            return
        part = row["update"] / self._num_updates
        if (
            last
            or part * LINES_PER_RUN >= self._next_line
            or now - self._shown >= SECONDS_BETWEEN_LINES
        ):
            self._shown = now
            self._next_line = math.floor(part * LINES_PER_RUN) + 1
            left = (now - self._started) * (1 - part) / (part - self._part_before)
            self.say(
                f"{part:4.0%}  update {row['update']:,}/{self._num_updates:,}  {speed}  "
                f"{returned()}  {format_seconds(left)} left"
            )

    def _padded(self, name: str, text: str) -> str:
        """As long as it ever was, because the bar takes the rest of the line, and would flicker."""
        self._widths[name] = max(self._widths.get(name, 0), len(text))
        return text.ljust(self._widths[name])

    def stop(self) -> None:
        """Stop updating the bar, and restore the terminal."""
        if self._bar is not None:
            self._bar.stop()


def format_return(value: float) -> str:
    """Format a return with four digits; `none` if no episode ended."""
    return "none" if math.isnan(value) else f"{value:.4g}"


def format_returns(row: Mapping[str, Any]) -> str:
    """Describe the returns in a row: of the last 100 episodes, and of those that just ended."""
    return in_words(*(format_return(row[name]) if name in row else None for name in RETURNS))


def in_words(recent: str | None, latest: str | None) -> str:
    """Describe returns, given those of the last 100 episodes and of the update, if there are any.

    The first come first: they are known in every update, so that the text does not jump.
    """
    words = [] if recent is None else [f"{recent} (last 100)"]
    if latest is not None:
        words.append(f"now {latest}" if words else latest)
    return f"return {', '.join(words)}" if words else ""


def format_seconds(seconds: float) -> str:
    """Format a duration: `8.3 s`, `4:05` or `2:10:00`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# rich is imported when something is shown: `import rlscan` does without it.


def _shows_bars(console: Any) -> bool:
    if console.is_jupyter:  # where rich needs these two to change what it has shown
        return all(map(importlib.util.find_spec, ("IPython", "ipywidgets")))
    return console.is_terminal and not console.is_dumb_terminal


def _bar(console: Any) -> Any:
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn
    from rich.table import Column

    class Narrow(Bar):
        """A bar that ends before the line does: a full line that grows is not erased."""

        def get_renderable(self) -> Any:
            return Constrain(Group(*self.get_renderables()), max(console.width - _ROOM, 1))

    def text(template: str) -> TextColumn:
        return TextColumn(template, table_column=Column(no_wrap=True))

    return Narrow(
        text("update {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=None),
        text("{task.fields[speed]}"),
        text("{task.fields[episode_return]}"),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        console=console,
        auto_refresh=False,  # a refresh thread would compete with training
        expand=True,
    )


def _console() -> Any:
    """Make a console whose reader may leave: `rlscan train … | head` keeps training, silently."""
    from rich.console import Console

    class Quietable(Console):
        def on_broken_pipe(self) -> None:
            self.silence()

        def silence(self) -> None:
            self.quiet = True
            discard_stdout()

    return Quietable(highlight=False, soft_wrap=True)
