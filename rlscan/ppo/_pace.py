"""Lever: several updates in one call of the compiled program.

A call costs as much as a small update, so a call makes as many updates as take a tenth of a second,
and two if they take up to a second.
`python -m benchmarks --only training` compares the loop with one program for the whole run.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from ._metrics import Metrics

SECONDS = 0.1

State = TypeVar("State")


class Pace(Generic[State]):
    """Calls a program for several updates at a time."""

    def __init__(
        self,
        program: Callable[[State, np.ndarray], tuple[State, Metrics]],
        *,
        at_most: int,
        fixed: int | None = None,
    ):
        """
        **Arguments:**

        - `program`: `(state, number of updates) -> (state, metrics)`, which returns when its work
            is done. The last axis of the metrics has length `at_most`.
        - `at_most`: the most updates that one call can make.
        - `fixed`: the number of updates in each call; by default the clock decides.
        """
        self._program, self._at_most, self._fixed = program, at_most, fixed
        self._num_updates = (
            fixed or 1
        )  # of the next call; at first the time of an update is unknown

    def __call__(self, state: State, num_left: int) -> tuple[State, dict[str, Any]]:
        """Make at most `num_left` updates.

        **Returns:** `(state, metrics)`, the metrics of the updates made, on the host.
        """
        num_updates = min(self._num_updates, num_left)
        started = time.monotonic()
        state, metrics = self._program(state, np.asarray(num_updates, np.int32))
        seconds = max(time.monotonic() - started, 1e-6) / num_updates
        if self._fixed is None:
            # Two at least unless they are slow: a call pays for its memory again, page by page.
            at_least = 2 if seconds < 10 * SECONDS else 1
            self._num_updates = min(max(round(SECONDS / seconds), at_least), self._at_most)
        return state, {n: x[..., :num_updates] for n, x in jax.device_get(metrics).items()}
