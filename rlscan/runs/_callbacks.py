"""`Callback`: a function that is called between updates, and may change the state or stop a run."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .._core.require import is_positive_integer


@dataclasses.dataclass(frozen=True)
class Stop:
    """What a callback returns to end the run after this update."""

    reason: str = ""
    """Why, for the screen and the run directory."""


@runtime_checkable
class Callback(Protocol):
    """A function that is called between updates: any object with this method.

    Three attributes are optional:

    - `interval: int`, the number of updates from one call to the next; 1 if it is missing. The
      state is exact at each call, however many updates the compiled program makes at once.
    - `metrics: Sequence[str]`, the names of the metrics that it adds. Between its calls they are
      NaN; a callback that is called after every update need not name them.
    - `state_dict()` and `load_state_dict(state)`, for a callback that must remember something when
      a run is resumed. It returns plain dicts, lists, numbers and strings; they are part of each
      checkpoint.
    """

    def on_update(self, state: Any, metrics: dict[str, Any]) -> Any:
        """Look at an update.

        **Arguments:**

        - `state`: the state after the update, such as `rlscan.ppo.TrainState`.
        - `metrics`: the metrics of the update: numbers, or arrays `[R]` of several runs. An entry
            that is added becomes a column of the metrics.

        **Returns:** `None` to go on; a `Stop` to end the run; or a state to go on from, of the same
        structure and shapes, such as one with other parameters of the environment.
        """
        ...


class Callbacks:
    """The callbacks of a run."""

    def __init__(self, callbacks: Sequence[Any]):
        """**Raises:** `TypeError` for what is no callback; `ValueError` for an invalid interval."""
        self._callbacks = list(callbacks)
        for one in self._callbacks:
            if not callable(getattr(one, "on_update", None)):
                raise TypeError(
                    f"a callback must have a method on_update(state, metrics), got {one!r}"
                )
            if not is_positive_integer(getattr(one, "interval", 1)):
                raise ValueError(
                    f"{type(one).__name__}.interval must be a positive integer, the updates from "
                    f"one call to the next, got {getattr(one, 'interval', 1)!r}"
                )

    @property
    def interval(self) -> int | None:
        """The updates after which the state must be exact; `None` without callbacks."""
        return math.gcd(*(getattr(one, "interval", 1) for one in self._callbacks)) or None

    def call(self, update: int, state: Any, metrics: Any) -> tuple[Any, Any, Stop | None]:
        """Call those that are due after an update: the state and metrics, and whether to stop."""
        stop = None
        due = [one for one in self._callbacks if update % getattr(one, "interval", 1) == 0]
        named = [name for one in self._callbacks for name in getattr(one, "metrics", ())]
        if due or named:
            missing = np.full_like(next(iter(metrics.values())), np.nan, np.float64)
            metrics = {**metrics, **{name: missing for name in named}}
        for one in due:
            result = one.on_update(state, metrics)
            if isinstance(result, Stop):
                stop = stop or result
            elif result is not None:
                state = result
        return state, metrics, stop

    def states(self) -> list[Any]:
        """What the callbacks remember, for a checkpoint."""
        return [self._state_of(one) for one in self._callbacks]

    def _state_of(self, one: Callback) -> Any:
        state = one.state_dict() if hasattr(one, "state_dict") else None  # pyright: ignore
        try:
            return json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{type(one).__name__}.state_dict must return plain dicts, lists, numbers and "
                f"strings, but {error}; keep arrays in the training state"
            ) from None

    def restore(self, states: Sequence[Any]) -> None:
        """Give each callback what it remembered at a checkpoint.

        **Raises:** `ValueError` if the checkpoint is of other callbacks.
        """
        if len(states) != len(self._callbacks):
            raise ValueError(
                f"the run had {len(states)} callbacks, but now there are {len(self._callbacks)}; "
                "give the same ones"
            )
        for one, state in zip(self._callbacks, states, strict=True):
            if state is not None and hasattr(one, "load_state_dict"):
                one.load_state_dict(state)  # pyright: ignore
