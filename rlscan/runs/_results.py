"""`results.csv`: how each run of a sweep, or of several seeds, ended."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._core.files import write_whole
from ._final import final_returns
from ._read import read_metrics

RESULTS_FILE = "results.csv"


def write_results(
    directory: Path,
    parts: Sequence[tuple[Path, Sequence[Mapping[str, Any]], Mapping[str, str]]],
) -> None:
    """Write a row for each run of a directory, or of several.

    A row holds the number and the seed of a run, its swept values, the updates that it has made,
    its mean return over the episodes in the last tenth of them, and that of its last 100 episodes.

    **Arguments:**

    - `directory`: where to write the file.
    - `parts`: run directories, each with the labels of its runs, and further columns.
    """
    rows = [row for part in parts for row in _rows(*part)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(directory / RESULTS_FILE, text.getvalue().encode())


def _rows(
    directory: Path, labels: Sequence[Mapping[str, Any]], more: Mapping[str, str]
) -> list[dict[str, Any]]:
    table = read_metrics(directory)
    known = "episode_return" in table
    returns = final_returns(table) if known else np.full(len(labels), np.nan)
    rows = []
    for i, label in enumerate(labels):
        own = table["run"] == i
        last = {
            name: table[name][own][-1] if name in table else np.nan
            for name in ("update", "step", "return_mean_100")
        }
        rows.append(
            {
                **label,
                **more,
                "updates": int(last["update"]),
                "steps": int(last["step"]),
                "final_return": float(returns[i]),
                "return_mean_100": float(last["return_mean_100"]),
            }
        )
    return rows
