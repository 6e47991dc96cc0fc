"""`MetricsFiles`: the metrics of a run, as CSV and as JSON lines."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core.files import append
from ..ppo._metrics import METRICS

METRICS_FILES = ("metrics.csv", "metrics.jsonl")

PLACE = {
    "update": "number of updates made, this one included",
    "step": "environment steps so far, over all environments",
    "seconds": "seconds of training so far, without compilation",
    "steps_per_second": "environment steps per second since the last row",
}

COLUMNS = {**PLACE, **METRICS}
"""A description of each column. Metrics of episodes cover all that ended since the last row; the
others belong to the row's own update. If several runs are trained side by side, each has its own
rows, which begin with its number `run`, its `seed` and its values of the swept settings."""


class MetricsFiles:
    """`metrics.csv` and `metrics.jsonl`, with one line per row, written immediately."""

    def __init__(self, directory: Path, ends: Mapping[str, int] | None = None):
        """Open new files, or cut existing ones back to their lengths at a checkpoint.

        **Arguments:**

        - `directory`: the run directory.
        - `ends`: the lengths of the files at the checkpoint; `None` or empty for new files.
        """
        paths = [directory / name for name in METRICS_FILES]
        has_header = bool(ends and ends[METRICS_FILES[0]])
        self._columns = _columns_of(paths[0]) if has_header else []
        self._is_resumed = has_header
        # Unbuffered, so that a write returns how many bytes the file took.
        self._files = [open(path, "r+b" if ends else "xb", 0) for path in paths]
        try:
            for name, file in zip(METRICS_FILES, self._files, strict=True):
                file.seek(file.truncate((ends or self.ends())[name]))
        except OSError:
            self.close()
            raise

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows. If the disk is full, raise `OSError` and leave the files as they were."""
        if not rows:
            return
        as_csv, as_json = [], []
        if not self._columns:
            self._columns = list(rows[0])
            as_csv.append(_csv_line(self._columns))
        for row in rows:
            # A run that an earlier rlscan began keeps its columns.
            extra = [name for name in row if name not in self._columns]
            if extra and not self._is_resumed:
                raise ValueError(
                    f"the metric {extra[0]} is not in the first row, which named the columns; "
                    "report it at every update, as NaN if it is not there"
                )
            values = {name: row.get(name, math.nan) for name in self._columns}
            as_csv.append(_csv_line(list(values.values())))
            # JSON has no NaN, so `null` stands for it.
            finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
            as_json.append(json.dumps(finite).encode() + b"\n")
        append(self._files, [b"".join(as_csv), b"".join(as_json)])

    def ends(self) -> dict[str, int]:
        """The lengths of the files, in bytes."""
        return {n: file.tell() for n, file in zip(METRICS_FILES, self._files, strict=True)}

    def sync(self) -> None:
        for file in self._files:
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files:
            file.close()


def check_metrics(directory: Path, ends: Mapping[str, int]) -> None:
    """Raise `ValueError` if a metrics file is shorter than it was at a checkpoint."""
    for name, end in ends.items():
        file = directory / name
        size = file.stat().st_size if file.exists() else 0
        if size < end:
            raise ValueError(
                f"{file} has {size} bytes, but {end} were written before the checkpoint; "
                "restore the file, and the run will continue"
            )


def _columns_of(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _csv_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()
