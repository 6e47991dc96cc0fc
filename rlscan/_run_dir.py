"""The directory of a training run: its config, its metrics, its policy."""

import csv
import errno
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from ._checkpoint import POLICY_FILE
from ._config import Config, to_yaml
from ._ppo import METRICS

CONFIG_FILE = "config.yaml"
METRICS_FILES = ("metrics.csv", "metrics.jsonl")

COLUMNS = {
    "update": "how many updates were made, this one included",
    "step": "environment steps so far, over all environments",
    "seconds": "of training so far, compilation not included",
    "steps_per_second": "since the last row",
    **METRICS,
}
"""What the columns of the metrics are. Of the metrics of updates, those of episodes are over all
that ended since the last row; the others are of the row's own update."""


def check_output(output: str) -> None:
    """Raises `ValueError` if a run cannot be written there. Writes nothing."""
    path = Path(output)
    for name in (CONFIG_FILE, *METRICS_FILES, POLICY_FILE.parent):
        if os.path.lexists(path / name):
            raise ValueError(
                f"output {output} holds another run (its {name}); "
                "choose another --output, or remove it"
            )
    nearest = path
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"output {output} must be a directory, but {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"output {output} cannot be made: {nearest} is not writable")


def claim(config: Config) -> Path:
    """Makes the run directory and writes the config into it.

    **Raises:** `ValueError` if another run has it, or it cannot be written.
    """
    output = str(config.output)
    check_output(output)
    path = Path(output)
    try:
        (path / POLICY_FILE).parent.mkdir(parents=True, exist_ok=True)
        # "x" fails where the file exists: of two runs that start together, one gets it.
        with open(path / CONFIG_FILE, "x", encoding="utf-8") as file:
            try:
                file.write(to_yaml(config))
                file.flush()
            except OSError:  # half a config would hold the directory
                os.unlink(path / CONFIG_FILE)
                raise
    except FileExistsError:
        raise ValueError(
            f"output {output} holds another run; choose another --output, or remove it"
        ) from None
    except OSError as error:
        raise ValueError(f"output {output} cannot be written: {error.strerror}") from None
    return path


class MetricsFiles:
    """`metrics.csv` and `metrics.jsonl`, one line per row, on the disk as soon as it is written."""

    def __init__(self, directory: Path):
        # Unbuffered: what a write returns is what the file took.
        self._csv, self._jsonl = (open(directory / n, "xb", buffering=0) for n in METRICS_FILES)
        _append(self._csv, _csv_line(list(COLUMNS)))

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row. `OSError` if the disk is full; the files then end with the row before."""
        values = {name: row[name] for name in COLUMNS}
        _append(self._csv, _csv_line(list(values.values())))
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}  # JSON has no NaN
        _append(self._jsonl, json.dumps(finite).encode() + b"\n")

    def close(self) -> None:
        self._csv.close()
        self._jsonl.close()


def _csv_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def _append(file: io.FileIO, line: bytes) -> None:
    """Writes all of a line or none of it."""
    end = file.tell()
    try:
        if file.write(line) != len(line):  # a disk that fills up takes what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        file.truncate(end)
        file.seek(end)
        raise OSError(error.errno, error.strerror, str(file.name)) from None
