"""Loggers: receivers of the metrics, in addition to the files of the run directory."""

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from .._core.screen import message_of

LoggerName = Literal["tensorboard", "wandb"]
LOGGERS: tuple[str, ...] = get_args(LoggerName)


# The entries of a row that are not metrics but identify the row.
_PLACE = ("update", "step", "run", "seed")

_SECONDS_BETWEEN_FLUSHES = 2.0


@runtime_checkable
class Logger(Protocol):
    """A receiver of a run's metrics: any object with these two methods."""

    def log(self, row: dict[str, Any]) -> None:
        """Receive a row: numbers under the names of `rlscan.ppo.METRICS`, with `update` and `step`.

        `step` counts environment steps. If several runs are trained together, each row belongs to
        one of them, and `run` is its number, from 0.
        """
        ...

    def close(self) -> None:
        """Finish, because there are no more rows."""
        ...


class Loggers:
    """Several loggers as one. A logger that raises is dropped, so that it cannot stop the run.

    `warn` reports it once; the run and the other loggers continue.
    """

    def __init__(self, loggers: Iterable[Logger], *, warn: Callable[[str], Any] | None = None):
        self._loggers = list(loggers)
        self._warn = warnings.warn if warn is None else warn

    def log(self, row: dict[str, Any]) -> None:
        """Pass a copy of the row to each logger."""
        self._each("log", row)

    def close(self) -> None:
        """Close all loggers."""
        self._each("close")
        self._loggers = []

    def _each(self, method: str, *rows: dict[str, Any]) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, method)(*map(dict, rows))
            except Exception as error:  # a full disk, a lost network or a bug must not end the run
                self._loggers.remove(logger)
                what = ": ".join(filter(None, (type(error).__name__, message_of(error))))
                self._warn(
                    f"{type(logger).__name__} failed to {method} and is dropped ({what}); "
                    "the run continues"
                )


class TensorBoardLogger:
    """Write scalars for TensorBoard, by environment step, to `tensorboard/` in the run directory.

    If several runs are trained together, each has its own directory there. Needs
    `rlscan[tensorboard]`.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory = Path(directory) / "tensorboard"
        self._writers: dict[Any, Any] = {}  # by run
        self._flushed = time.monotonic()

    def log(self, row: dict[str, Any]) -> None:
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports]

        writer = self._writer(row.get("run"))
        for name, value in _metrics(row).items():
            scalar = summary.scalar(name, value)
            writer.write_event(Event(step=row["step"], wall_time=time.time(), summary=scalar))
        now = time.monotonic()
        if now - self._flushed > _SECONDS_BETWEEN_FLUSHES:  # flushing waits for the disk
            self._flushed = now
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, run: int | None) -> Any:
        # Not SummaryWriter, which writes from a thread. If it dies on a full disk, its queue fills
        # up and the run waits forever, whereas EventsWriter raises in this thread.
        from tensorboardX.event_file_writer import EventsWriter  # pyright: ignore[reportMissingImports]

        if run not in self._writers:
            directory = self._directory / ("" if run is None else f"run-{run}")
            directory.mkdir(parents=True, exist_ok=True)
            self._writers[run] = EventsWriter(str(directory / "events"))
        return self._writers[run]


class WandbLogger:
    """Log to Weights & Biases, or with `WANDB_MODE=offline` into the run directory.

    Each start and each resume is a run there. If several runs are trained together, their metrics
    are named `run-0/episode_return` and so on. Needs `rlscan[wandb]`, and if online, `wandb login`
    or `WANDB_API_KEY`.
    """

    def __init__(self, directory: str | os.PathLike, *, config: dict[str, Any] | None = None):
        self._directory, self._config = Path(directory), config
        self._run: Any = None

    def log(self, row: dict[str, Any]) -> None:
        if self._run is None:
            self._run = self._start()
        prefix = "" if row.get("run") is None else f"run-{row['run']}/"
        metrics = {prefix + name: value for name, value in _metrics(row).items()}
        self._run.log({**metrics, "step": row["step"]})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _start(self) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        # Otherwise `wandb.init` asks for a key if there is a terminal, and blocks the run.
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise RuntimeError("not logged in: `wandb login`, or WANDB_MODE=offline")
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rlscan"),
            name=self._directory.resolve().name,
            dir=str(self._directory),
            config=self._config,
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("*", step_metric="step")
        return run


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a row, without NaN: a mean over episodes is NaN if none ended."""
    return {k: v for k, v in row.items() if k not in _PLACE and not math.isnan(v)}


def check_loggers(names: Sequence[str]) -> None:
    """Raise `ValueError` for a logger that is unknown, given twice or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"loggers must be among {', '.join(LOGGERS)}, got {name!r}")
        if list(names).count(name) > 1:
            raise ValueError(f"loggers has {name} twice; keep one")
        package = {"tensorboard": "tensorboardX", "wandb": "wandb"}[name]
        if not _is_installed(package):
            raise ValueError(
                f"the logger {name} needs {package}: pip install 'rlscan[{name}]', or leave it out"
            )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def make_loggers(
    names: Sequence[str], directory: str | os.PathLike, *, config: dict[str, Any] | None = None
) -> list[Logger]:
    """Make loggers by name. They create their files in the run directory at the first row.

    **Raises:** like `check_loggers`.
    """
    check_loggers(names)
    make = {
        "tensorboard": lambda: TensorBoardLogger(directory),
        "wandb": lambda: WandbLogger(directory, config=config),
    }
    return [make[name]() for name in names]
