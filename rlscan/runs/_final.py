"""How well each run of a directory ended, and which of its policies to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ._checkpoint import BEST, DIRECTORY
from ._read import Table, read_metrics

LAST_PART = 0.1  # of the updates, over which returns at the end of training are averaged


def final_returns(table: Table) -> Float[np.ndarray, " R"]:
    """The mean return of each run over the episodes in the last tenth of its updates.

    **Arguments:**

    - `table`: from `read_metrics`; the runs are ordered by their numbers.

    **Returns:** NaN for a run that ended no episode there, or has diverged.

    **Raises:** `ValueError` if there are no returns in the table.
    """
    if "episode_return" not in table:
        raise ValueError("the metrics have no episode_return, which scores a run")
    clock = table["update"] if "update" in table else table["step"]
    returns = []
    for run in np.unique(table["run"]):
        rows = table["run"] == run
        late = rows & (clock > (1 - LAST_PART) * clock[rows].max())
        value = table["episode_return"][late]
        weight = table["num_episodes"][late] if "num_episodes" in table else np.ones(len(value))
        kept = np.isfinite(value) & (weight > 0)  # a mean over no episodes is NaN
        total = weight[kept].sum()
        returns.append((weight * value)[kept].sum() / total if total else np.nan)
    return np.array(returns)


def median_run(returns: Sequence[float] | np.ndarray) -> int:
    """The index of the median of returns that are known; of two, that of the lower one.

    **Raises:** `ValueError` if none is known.
    """
    order = [int(i) for i in np.argsort(returns, kind="stable") if np.isfinite(returns[i])]
    if not order:
        raise ValueError("no run has ended an episode in the last tenth of its training")
    return order[(len(order) - 1) // 2]


def median_run_of(directory: str | Path) -> int:
    """The number of the run with the median return at the end of training.

    **Raises:** `ValueError` if the directory has no metrics, or none of returns.
    """
    table = read_metrics(directory)
    if not len(table["run"]):
        raise ValueError(f"{directory} has no row of metrics yet")
    return int(np.unique(table["run"])[median_run(final_returns(table))])


def policy_file(directory: str | Path, checkpoint: str) -> Path:
    """The file or directory to load a policy from.

    **Arguments:**

    - `directory`: a run directory.
    - `checkpoint`: `"last"`, `"best"`, or a file, also by its name in `checkpoints`.

    **Raises:** `ValueError` if there is no such file.
    """
    if checkpoint == "last":
        return Path(directory)
    within = Path(directory, DIRECTORY)
    places = [within / BEST] if checkpoint == "best" else [Path(checkpoint), within / checkpoint]
    for file in places:
        try:
            if file.is_file():
                return file
        except (OSError, ValueError):  # no file can have such a name
            continue
    there = sorted(file.name for file in within.glob("*") if file.suffix in (".ckpt", ".eqx"))
    hint = f"{within} holds {', '.join(there)}" if there else f"{within} holds none"
    raise ValueError(f"no checkpoint {places[0]}; {hint}")
