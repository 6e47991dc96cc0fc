"""The directory of a training run: its config, its metrics, its policy."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ._checkpoint import POLICY_FILE, reserve_policy
from ._config import Config, to_yaml
from ._metrics import METRICS
from ._types import Policy

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
        what = "a link to nothing" if nearest.is_symlink() else "a file"
        raise ValueError(
            f"output {output} must be a directory, but {nearest} is {what}; choose another --output"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"output {output} cannot be made: {nearest} is not writable")


@contextmanager
def claim(config: Config, policy: Policy) -> Iterator[Path]:
    """A run directory, with the config in it and room for the policy.

    If there are no results in it when the block ends, what was made is taken away again: it would
    stand in the way of the next attempt.

    **Arguments:**

    - `config`: of the run, with `output` set.
    - `policy`: of the run, as large as it will be saved.

    **Raises:** `ValueError` if another run has the directory, or it cannot be written.
    """
    output = str(config.output)
    check_output(output)
    path = Path(output)
    with ExitStack() as undo:
        try:
            _fill(path, config, policy, undo)
        except FileExistsError:
            raise ValueError(
                f"output {output} holds another run; choose another --output, or remove it"
            ) from None
        except OSError as error:
            raise ValueError(f"output {output} cannot be written: {error.strerror}") from None
        try:
            yield path
        finally:
            if _has_results(path):
                undo.pop_all()


def _fill(path: Path, config: Config, policy: Policy, undo: ExitStack) -> None:
    for directory in (*reversed(path.parents), path):
        _make_directory(directory, undo)
    # "x" fails where the file exists: of two runs that start together, one gets it.
    with open(path / CONFIG_FILE, "x", encoding="utf-8") as file:
        undo.callback(os.unlink, path / CONFIG_FILE)
        file.write(to_yaml(config))
    for name in METRICS_FILES:  # `MetricsFiles` makes them
        undo.callback((path / name).unlink, missing_ok=True)
    _make_directory((path / POLICY_FILE).parent, undo)
    undo.callback(reserve_policy(path / POLICY_FILE, policy, config).unlink, missing_ok=True)


def _make_directory(directory: Path, undo: ExitStack) -> None:
    def remove() -> None:
        with suppress(OSError):  # somebody else has put something there
            directory.rmdir()

    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        undo.callback(remove)


def _has_results(path: Path) -> bool:
    rows = path / METRICS_FILES[1]  # which has no header
    return (path / POLICY_FILE).exists() or (rows.exists() and rows.stat().st_size > 0)


class MetricsFiles:
    """`metrics.csv` and `metrics.jsonl`, one line per row, on the disk as soon as it is written."""

    def __init__(self, directory: Path):
        # Unbuffered: what a write returns is what the file took.
        self._files = [open(directory / n, "xb", buffering=0) for n in METRICS_FILES]
        try:
            _append(self._files, [_csv_line(list(COLUMNS)), b""])
        except OSError:
            self.close()
            raise

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row. `OSError` if the disk is full; the files then end with the row before."""
        values = {name: row[name] for name in COLUMNS}
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}  # JSON has no NaN
        as_json = json.dumps(finite).encode() + b"\n"
        _append(self._files, [_csv_line(list(values.values())), as_json])

    def close(self) -> None:
        for file in self._files:
            file.close()


def _csv_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def _append(files: Sequence[io.FileIO], lines: Sequence[bytes]) -> None:
    """Writes a line to each file, or nothing to any."""
    ends = [file.tell() for file in files]
    try:
        for file, line in zip(files, lines, strict=True):
            _write_whole(file, line)
    except BaseException:  # a second Ctrl-C, too
        for file, end in zip(files, ends, strict=True):
            file.truncate(end)
            file.seek(end)
        raise


def _write_whole(file: io.FileIO, line: bytes) -> None:
    try:
        if file.write(line) != len(line):  # a disk that fills up takes what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.name)) from None
