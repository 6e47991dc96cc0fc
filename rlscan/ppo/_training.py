"""`Training`: the updates of a run, made by a compiled program as they are asked for."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from .._core.mesh import on_devices
from .._core.program import Program
from .._core.scan import check_same_carry, filter_repeat
from .._core.tree import cast_like
from .._core.types import Environment, PyTree
from ._algorithm import PPO, made_update
from ._metrics import Metrics, until_diverged
from ._pace import Pace
from ._verdicts import check_audit, check_divergences

MOST_UPDATES = 256
"""The most updates that one call of a run's compiled program makes."""

State = TypeVar("State")


class Training(Iterator[tuple[State, dict[str, Any]]], Generic[State]):
    """The updates of a run, made as they are asked for; `rlscan.train` returns one."""

    num_updates: int
    """The number of updates of the whole run."""
    env: Environment
    """The environment that training was started with. The state of PPO holds the one in use."""
    algorithm: Any
    """The algorithm: an `rlscan.ppo.PPO` if `rlscan.train` was given a `PPOConfig`."""
    mesh: Mesh | None
    """The devices that the work is split over."""

    def __init__(
        self,
        state: State,
        num_updates: int,
        *,
        env: Environment,
        algorithm: Any,
        mesh: Mesh | None,
        updates_per_call: int | None,
        state_interval: int | None,
        strict: bool | float,
        debug: bool,
        program: Program,
        numbers: tuple[PyTree, ...],
    ):
        """**Arguments:** as for `rlscan.train`, and

        - `state`: the state to start from, where the program expects it.
        - `num_updates`: of the whole run.
        - `program`: of `several_updates`, traced for `state`.
        - `numbers`: the arguments of the program beside the state and the number of updates.
        """
        self.num_updates, self.env, self.algorithm, self.mesh = num_updates, env, algorithm, mesh
        self.updates_per_call, self.state_interval = updates_per_call, state_interval
        self.strict, self.debug = strict, debug
        self._state, self._program, self._numbers = state, program, numbers
        self._num_left = num_updates - updates_made(state)  # updates not handed over yet
        self._call: Callable[..., tuple[State, Metrics]] | None = None  # the program, compiled
        self._updates: Iterator[tuple[State, dict[str, Any]]] | None = None  # once it is asked

    @property
    def state(self) -> State:
        """The state after the last call of the program; at first the one that training starts from.

        It may be set between updates, to a state of the same structure, shapes and dtypes: the next
        call of the program goes on from it. `TypeError` names the leaf that differs. Nothing is
        compiled again.

        ```python
        for state, metrics in training:
            gravity = jnp.asarray(9.8 + 0.1 * int(state.num_updates))
            training.state = eqx.tree_at(lambda s: s.env.params.gravity, state, gravity)
        ```
        """
        return self._state

    @state.setter
    def state(self, new: State) -> None:
        self._state = _like(self._state, new)

    def __next__(self) -> tuple[State, dict[str, Any]]:
        if self._updates is None:
            self._updates = self._iterate()
        return next(self._updates)

    def __length_hint__(self) -> int:
        return self._num_left

    def compile(self) -> float:
        """Compile the updates now, rather than with the first of them.

        **Returns:** the seconds that tracing and compiling them took.
        """
        if self._call is None:
            self._call = self._program.compile()
        return self._program.seconds

    def _iterate(self) -> Iterator[tuple[State, dict[str, Any]]]:
        self.compile()
        call: Any = self._call
        pace = Pace(
            lambda state, times: call(state, times, *self._numbers),
            at_most=self.updates_per_call or MOST_UPDATES,
            fixed=self.updates_per_call,
        )
        interval = self.state_interval or self.num_updates
        is_ppo = isinstance(self.algorithm, PPO)
        while self._num_left > 0 and not (is_ppo and _have_all_diverged(self._state)):
            before: Any = self._state
            made = self.num_updates - self._num_left
            most = min(interval - made % interval, self._num_left)
            self._state, metrics = pace(before, most)
            metrics = until_diverged(metrics) if is_ppo else metrics
            lengths = [values.shape[-1] for values in metrics.values()]
            for i in range(min(self.updates_per_call or most, most, *lengths)):
                self._num_left -= 1
                own = {name: values[..., i] for name, values in metrics.items()}
                yield self._state, own
                if self.strict is not False:
                    check_audit(self, before, own, num_since=i)
        if self.debug:
            last: Any = self._state
            check_divergences(self, last, debug=True)


def updates_made(state: Any) -> int:
    """The number of updates of the run that went furthest: diverged ones are left behind.

    A state that does not tell is taken to be the first one.
    """
    return int(np.max(np.asarray(getattr(state, "num_updates", 0))))


def _have_all_diverged(state: Any) -> bool:
    return bool(np.all(np.asarray(state.divergence.update) > 0))


def _like(old: PyTree, new: PyTree) -> PyTree:
    """The new state, on the devices of the old one; `TypeError` names what differs."""
    try:
        words = {"name": "state", "where": "as Training.state was set", "first": "the old one"}
        check_same_carry(old, new, **words)
    except TypeError as error:
        raise TypeError(f"{error}; a number that will change is an array from the start") from None

    def one(was: Any, now: Any) -> Any:
        is_moved = isinstance(was, jax.Array) and now is not was
        return jax.device_put(now, was.sharding) if is_moved else now

    return jax.tree.map(one, old, cast_like(old, new))


def several_updates(
    algorithm: Any,
    axis: tuple[int, ...],
    mesh: Mesh | None,
    at_most: int,
    state: PyTree,
    times: Integer[Array, ""],
    own: PyTree,
    shared: PyTree,
) -> tuple[PyTree, Metrics]:
    """Make `times` updates: the state after them, and their metrics, `[*R, at_most]`.

    **Arguments:**

    - `algorithm`: without its arrays.
    - `axis`: the axis of runs, `(R,)` or `()`.
    - `mesh`: devices to split several runs over.
    - `at_most`: the most updates in a call.
    - `state`: the state before them.
    - `own`, `shared`: the arrays of the algorithm that each run has its own of, and the others.
    """

    def one(state: PyTree, times: Array, own: PyTree) -> tuple[PyTree, Metrics]:
        whole = eqx.combine(own, shared, algorithm)
        once = lambda state: made_update(whole.update(state), whole)  # noqa: E731
        return filter_repeat(once, state, times, most=at_most)

    if not axis:
        return one(state, times, own)

    def several(state: PyTree, times: Array, own: PyTree) -> tuple[PyTree, Metrics]:
        # Not mapped over, because a loop with a bound for each run would compare them every time.
        mapped = eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None, eqx.if_array(0)))
        return mapped(state, times[0], own)

    split = several if mesh is None else on_devices(several, mesh)
    return split(state, jnp.broadcast_to(times, axis), own)
