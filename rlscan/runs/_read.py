"""`read_metrics`: read the metrics of a run directory."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ._directory import METRICS_FILES
from ._load import load_settings

Table = dict[str, Shaped[np.ndarray, " rows"]]


def read_metrics(directory: str | Path, file: str = METRICS_FILES[0]) -> Table:
    """Read the metrics of a run directory, by column.

    **Arguments:**

    - `directory`: the directory of one run, or of several that were trained together.
    - `file`: the name of the file in it, `"metrics.csv"` or `"evaluations.csv"`.

    **Returns:** an array `[rows]` for each column of the file, always including `run` and `seed`.
    An incomplete last line is skipped: the run is writing it, or was killed while writing.

    **Raises:** `ValueError` if there is no such file, or if it is not a table of metrics.
    """
    return with_run_and_seed(read_table(directory, file), lambda: load_settings(directory))


def with_run_and_seed(table: Table, settings: Callable[[], Mapping[str, Any]]) -> Table:
    """Add the columns `run` and `seed`, which a run alone lacks; its settings tell the seed."""
    one = np.zeros(len(table["step"]))
    seed = settings().get("seed", 0) if "seed" not in table else 0
    return {"run": one, "seed": one + seed, **table}


def read_table(directory: str | Path, file: str) -> Table:
    """Read the columns of a file of metrics as they are, see `read_metrics`."""
    path = Path(directory) / file
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        hint = "train with --eval-interval" if "eval" in file else "give the directory of a run"
        raise ValueError(f"{directory} has no {file}; {hint}") from None
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path} cannot be read; it is not a table of metrics") from None
    whole = [line for line in lines if line.endswith("\n")]
    try:
        header, *rows = csv.reader(whole) if whole else [[]]
    except csv.Error as error:  # a quotation mark that is never closed, for megabytes
        raise ValueError(f"{path} is not a table of metrics: {error}") from None
    if "step" not in header or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is not a table of metrics: each row must have a step")
    try:
        columns = np.array(rows, np.float64).reshape(-1, len(header)).T
    except ValueError:
        raise ValueError(f"{path} is not a table of metrics: it must hold only numbers") from None
    return dict(zip(header, columns, strict=True))
