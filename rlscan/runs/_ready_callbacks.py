"""Callbacks that are ready to use: `StopAtReturn` and `Snapshot`."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._callbacks import Stop
from ._fit import policy_in
from ._policy_file import save_policy


@dataclasses.dataclass
class StopAtReturn:
    """Stop the run when episodes return enough: every run, if several are trained together."""

    value: float
    """The return to reach."""
    metric: str = "return_mean_100"
    """The metric that must reach it."""
    interval: int = 1
    """Updates between calls."""

    def on_update(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        """See `Callback`."""
        if self.metric not in metrics:
            raise ValueError(f"there is no metric {self.metric}; one of {', '.join(metrics)}")
        if np.all(np.asarray(metrics[self.metric]) >= self.value):
            return Stop(f"{self.metric} reached {self.value:g}")
        return None


@dataclasses.dataclass
class Snapshot:
    """Save the policy every `interval` updates, to `policy-UPDATE.eqx` in a directory.

    `rlscan.load_policy(file, like=policy)` reads it.
    """

    directory: str | os.PathLike
    """Where to write; the command line gives the run directory's `snapshots`."""
    interval: int = 100
    """Updates between saves."""
    num_calls: int = dataclasses.field(default=0, init=False)
    """The number of saves so far."""

    def on_update(self, state: Any, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        directory = Path(self.directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.num_calls += 1
        save_policy(directory / f"policy-{self.num_calls * self.interval}.eqx", policy_in(state))

    def state_dict(self) -> dict[str, int]:
        """See `Callback`."""
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """See `Callback`."""
        self.num_calls = state["num_calls"]
