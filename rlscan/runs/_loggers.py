"""Loggers: receivers of the metrics, in addition to the files of the run directory."""

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from .._core.screen import message_of
from .._core.tree import flatten_keys
from ._metric_names import metrics_in, settings_in

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
LOGGERS = tuple(_PACKAGES)

_SECONDS_BETWEEN_FLUSHES = 2.0


@runtime_checkable
class Logger(Protocol):
    """A receiver of a run's metrics: any object with these two methods."""

    def log(self, row: dict[str, Any]) -> None:
        """Receive a row: numbers under the names of `rlscan.ppo.METRICS`, with `update` and `step`.

        `step` counts environment steps. If several runs are trained together, each row belongs to
        one of them, and begins with its number `run`, from 0, its `seed` and its swept settings;
        `update` follows.
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
    """Write to `tensorboard/` in a run directory: scalars, hyperparameters, the config as text.

    Scalars are drawn over environment steps, in groups such as `rollout/episode_return` and
    `loss/policy`; a metric of your own without a slash in its name is `metrics/NAME`. If several
    runs are trained together, each has its own directory there. Needs `rlscan[tensorboard]`.
    """

    def __init__(self, directory: str | os.PathLike, *, config: Mapping[str, Any] | None = None):
        """**Arguments:**

        - `directory`: the run directory.
        - `config`: the settings of the run; by default those in its `config.yaml`.
        """
        self._directory, self._config = Path(directory), config
        self._writers: dict[Any, Any] = {}  # by run
        self._flushed = time.monotonic()

    def log(self, row: dict[str, Any]) -> None:
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]

        if row.get("run") not in self._writers:
            self._open(row)
        for name, value in metrics_in(row).items():
            self._write(row, summary.scalar(name, value))
        now = time.monotonic()
        if now - self._flushed > _SECONDS_BETWEEN_FLUSHES:  # flushing waits for the disk
            self._flushed = now
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _open(self, row: dict[str, Any]) -> None:
        # Not SummaryWriter, which writes from a thread. If it dies on a full disk, its queue fills
        # up and the run waits forever, whereas EventsWriter raises in this thread.
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]
        from tensorboardX.event_file_writer import EventsWriter  # pyright: ignore[reportMissingImports]

        run = row.get("run")
        directory = self._directory / "tensorboard" / ("" if run is None else f"run-{run}")
        directory.mkdir(parents=True, exist_ok=True)
        self._writers[run] = EventsWriter(str(directory / "events"))
        if not (settings := _settings_of(row, self._directory, self._config)):
            return
        shown = {k: v if _is_finite(v) else str(v) for k, v in settings.items()}
        for hyperparameters in summary.hparams(shown, metrics_in(row)):
            self._write(row, hyperparameters)
        lines = "\n".join(f"    {key}: {value}" for key, value in settings.items())
        self._write(row, summary.text("config", lines))  # indented, which is code in Markdown

    def _write(self, row: dict[str, Any], summary: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        event = Event(step=row["step"], wall_time=time.time(), summary=summary)
        self._writers[row.get("run")].write_event(event)


class WandbLogger:
    """Log to Weights & Biases, or with `WANDB_MODE=offline` into the run directory.

    Metrics are drawn over environment steps, in groups such as `rollout/episode_return` and
    `loss/policy`; a metric of your own without a slash in its name is `metrics/NAME`. Each start
    and each resume is a run there. If several runs are trained together, each is one of its own,
    with its seed and settings in its config; the group of all has the name of the run directory.
    Needs `rlscan[wandb]`, and if online, `wandb login` or `WANDB_API_KEY`.
    """

    def __init__(self, directory: str | os.PathLike, *, config: Mapping[str, Any] | None = None):
        """**Arguments:**

        - `directory`: the run directory.
        - `config`: the settings of the run; by default those in its `config.yaml`.
        """
        self._directory, self._config = Path(directory), config
        self._runs: dict[Any, Any] = {}  # those of Weights & Biases, by run

    def log(self, row: dict[str, Any]) -> None:
        run = row.get("run")
        if run not in self._runs:
            self._runs[run] = self._start(row)
        self._runs[run].log({**metrics_in(row), "step": row["step"]})

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()

    def _start(self, row: dict[str, Any]) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        # Otherwise `wandb.init` asks for a key if there is a terminal, and blocks the run.
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise RuntimeError("not logged in: `wandb login`, or WANDB_MODE=offline")
        name, run = self._directory.resolve().name, row.get("run")
        started = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rlscan"),
            group=name,
            name=name if run is None else f"{name}-run-{run}",
            dir=str(self._directory),
            config=_settings_of(row, self._directory, self._config),
            reinit="create_new",  # beside those that are open
            settings=wandb.Settings(silent=True, console="off"),
        )
        started.define_metric("*", step_metric="step")
        return started


def _is_finite(value: Any) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)


def _settings_of(
    row: dict[str, Any], directory: Path, config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of the run that a row belongs to, by their dotted keys."""
    if config is None:
        try:
            config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            config = None
    settings = flatten_keys(config) if isinstance(config, Mapping) else {}
    return settings | settings_in(row)


def check_loggers(names: Sequence[str]) -> None:
    """Raise `ValueError` for a logger that is unknown, given twice or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"loggers must be among {', '.join(LOGGERS)}, got {name!r}")
        if list(names).count(name) > 1:
            raise ValueError(f"loggers has {name} twice; keep one")
        package = _PACKAGES[name]
        if not _is_installed(package):
            raise ValueError(
                f"the logger {name} needs {package}: pip install 'rlscan[{name}]', or leave it out"
            )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
