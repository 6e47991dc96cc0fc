"""Loggers: where the rows of the metrics go, beside the files of the run directory."""

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

LoggerName = Literal["tensorboard", "wandb"]


LOGGERS: tuple[str, ...] = get_args(LoggerName)


# What says where a row stands, and is no metric.
_PLACE = ("update", "step", "run", "seed")


_SECONDS_BETWEEN_FLUSHES = 2.0


@runtime_checkable
class Logger(Protocol):
    """Takes the rows of a run. Any object with these two methods will do."""

    def log(self, row: dict[str, Any]) -> None:
        """Takes a row: numbers by the names of `rlscan.METRICS`, with the `update` and the `step`,
        in environment steps. Where several runs are trained together, `run` counts them from 0,
        and each row is of one."""
        ...

    def close(self) -> None:
        """There are no more rows."""
        ...


class Loggers:
    """Several loggers as one, of which none can do harm: one that raises is dropped.

    It is said once, by `warn`; the run and the other loggers go on.
    """

    def __init__(self, loggers: Iterable[Logger], *, warn: Callable[[str], Any] | None = None):
        self._loggers = list(loggers)
        self._warn = warnings.warn if warn is None else warn

    def log(self, row: dict[str, Any]) -> None:
        """Hands each logger a copy of the row."""
        self._each("log", row)

    def close(self) -> None:
        """Closes each."""
        self._each("close")
        self._loggers = []

    def _each(self, method: str, *rows: dict[str, Any]) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, method)(*map(dict, rows))
            except Exception as error:  # whatever it is: a full disk, a lost network, a mistake
                self._loggers.remove(logger)
                what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                self._warn(
                    f"{type(logger).__name__} failed to {method} and is dropped ({what}); "
                    "the run goes on"
                )


class TensorBoardLogger:
    """Scalars for TensorBoard, by environment step, in `tensorboard/` of the run directory.

    Of several runs each has a directory of its own there. Needs `rlscan[tensorboard]`.
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
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:  # it waits for the disk
            self._flushed = time.monotonic()
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, run: int | None) -> Any:
        # Not SummaryWriter: it writes in a thread, and when that has died on a full disk, the queue
        # to it fills up and the run waits for ever. Here it is this thread that hears of it.
        from tensorboardX.event_file_writer import EventsWriter  # pyright: ignore[reportMissingImports]

        if run not in self._writers:
            directory = self._directory / ("" if run is None else f"run-{run}")
            directory.mkdir(parents=True, exist_ok=True)
            self._writers[run] = EventsWriter(str(directory / "events"))
        return self._writers[run]


class WandbLogger:
    """Weights & Biases, online or, with `WANDB_MODE=offline`, into the run directory.

    A run there for each time that a run starts or is resumed; of several side by side the metrics
    are `run-0/episode_return` and so on. Needs `rlscan[wandb]`, and `wandb login` or
    `WANDB_API_KEY` where it is online.
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

        # Else, on a terminal, it would ask for a key and wait.
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
    """Those that are numbers: NaN stands for episodes that did not end."""
    return {k: v for k, v in row.items() if k not in _PLACE and not math.isnan(v)}


def check_loggers(names: Sequence[str]) -> None:
    """Raises `ValueError` for one that is not of `LOGGERS`, twice there, or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"loggers must be of {', '.join(LOGGERS)}, got {name!r}")
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
    """The loggers of these names, which write into a run directory from their first row on.

    **Raises:** as `check_loggers`.
    """
    check_loggers(names)
    make = {
        "tensorboard": lambda: TensorBoardLogger(directory),
        "wandb": lambda: WandbLogger(directory, config=config),
    }
    return [make[name]() for name in names]
