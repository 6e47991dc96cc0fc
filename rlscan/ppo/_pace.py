"""`Paced`: a run's program, called for as many updates as take a tenth of a second."""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from ._metrics import Metrics

SECONDS = 0.1


State = TypeVar("State")


class Paced(Generic[State]):
    """Calls a program for some updates.

    A call costs as much by itself as a small update, so it makes several: made one by one, those of
    CartPole at N = 4 took twice the time. Before it ends nothing is shown, and no signal heeded.
    """

    def __init__(self, program: Callable[[State, np.ndarray], tuple[State, Metrics]], most: int):
        """
        **Arguments:**

        - `program`: of a state and how many updates are to be made, in which a call is done when
            it returns; it gives the state after them, and metrics `[…, most]`.
        - `most`: how many it can make.
        """
        self._program, self._most = program, most
        self._times = 1  # of the next call; at first nothing is known of how long an update takes

    def __call__(self, state: State, left: int) -> tuple[State, dict[str, Any]]:
        """Makes updates, `left` at most: the state after them, and the metrics of those that were
        made, on the host."""
        times = min(self._times, left)
        started = time.monotonic()
        state, metrics = self._program(state, np.asarray(times, np.int32))
        of_one = max(time.monotonic() - started, 1e-6) / times
        self._times = min(max(round(SECONDS / of_one), 1), self._most)
        return state, {name: x[..., :times] for name, x in jax.device_get(metrics).items()}
