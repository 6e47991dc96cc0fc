"""`read_metrics`: the metrics of a run directory, read again."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ._directory import METRICS_FILES
from ._load import load_config

Table = dict[str, Shaped[np.ndarray, " rows"]]


def read_metrics(directory: str | Path, file: str = METRICS_FILES[0]) -> Table:
    """The metrics of a run directory, by column, one entry for each row.

    **Arguments:**

    - `directory`: of one run, or of several that were trained together.
    - `file`: in it, `"metrics.csv"` or `"evaluations.csv"`.

    **Returns:** arrays `[rows]`: those of the file's header, and `run` and `seed` in any case. A
    last line that is not whole, as a run leaves it that writes or was killed, is left out.

    **Raises:** `ValueError` if there is none, or if it is no such table.
    """
    path = Path(directory) / file
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        hint = "train with --eval-interval" if "eval" in file else "give the directory of a run"
        raise ValueError(f"{directory} has no {file}; {hint}") from None
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path} cannot be read; it is no table of metrics") from None
    whole = [line for line in lines if line.endswith("\n")]
    header, *rows = csv.reader(whole) if whole else [[]]
    if "step" not in header or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is no table of metrics: each row must have a step")
    try:
        columns = np.array(rows, np.float64).reshape(-1, len(header)).T
    except ValueError:
        raise ValueError(f"{path} is no table of metrics: it must hold numbers alone") from None
    table = dict(zip(header, columns, strict=True))
    one = np.zeros(len(rows))
    seed = load_config(directory).seed if "seed" not in table else 0
    return {"run": one, "seed": one + seed, **table}
