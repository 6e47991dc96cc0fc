"""The two programs of a run: one makes the state that it starts from, the other its updates."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from .._core.mesh import FIRST, make_mesh, on_devices, place
from .._core.scan import filter_repeat
from .._core.tree import is_shape, map_arrays
from .._core.types import Environment, PyTree
from ..ppo._metrics import Metrics
from ..ppo._train import count_updates
from ..ppo._update import TrainState, check_mesh, init_train, spread, update
from ..random._keys import key as make_key
from ._build import build_policy, members
from ._config import Config
from ._sweep import with_numbers


class Program:
    """A function as XLA takes it, traced for arguments of which the shapes alone need be known."""

    seconds: float  # that tracing took; once it is compiled, both
    _rest: PyTree  # what is no array in the result

    def __init__(self, function: Callable[..., PyTree], *arguments: PyTree):
        """Traces it.

        **Arguments:**

        - `function`: of pytrees, what is no array in its arguments and its result being static.
        - `arguments`: arrays, or `jax.ShapeDtypeStruct` in their places.
        """
        started = time.monotonic()
        shapes, rest = eqx.partition(arguments, is_shape)

        def of_arrays(arrays: PyTree) -> PyTree:
            result, self._rest = eqx.partition(function(*eqx.combine(arrays, rest)), eqx.is_array)
            return result

        # In the names of kept programs, and in profiles.
        of_arrays.__name__ = getattr(function, "func", function).__name__.removeprefix("_")
        self._lowered = jax.jit(of_arrays).lower(shapes)
        self.seconds = time.monotonic() - started

    @property
    def result(self) -> PyTree:
        """What it returns, with `jax.ShapeDtypeStruct` for arrays."""
        return eqx.combine(self._lowered.out_info, self._rest)

    def compile(self) -> Callable[..., PyTree]:
        """The function, for arrays of these shapes. It is done when it returns: `device_get` waits
        for ever (JAX 0.10) where memory ran out, which is raised while one waits for all."""
        started = time.monotonic()
        compiled, rest = self._lowered.compile(), self._rest
        self.seconds += time.monotonic() - started

        def call(*arguments: PyTree) -> PyTree:
            result = compiled(eqx.filter(arguments, eqx.is_array))
            return eqx.combine(jax.block_until_ready(result), rest)

        return call


MOST_UPDATES = 256
"""How many updates a call of a run's program makes at most."""


def begin(config: Config, env: Environment) -> tuple[TrainState, Program]:
    """The state before the first update, and the program that makes updates.

    That one is traced while XLA compiles the one that makes the state, for a quicker cold start
    (`python -m benchmarks.peers run --only cold-start`).

    **Arguments:**

    - `config`, and the environment that was built of it.

    **Returns:** `(state, program)`; the program takes the state, how many updates are to be made,
    and `numbers_of(config)`.
    """
    seeds, mesh = _seeds(config), mesh_of(config)
    start = Program(partial(_start, config, env, mesh), seeds)
    shapes, specs = start.result
    with ThreadPoolExecutor(1) as thread:
        making = thread.submit(lambda: start.compile()(seeds)[0])
        several = partial(_updates, config, env, mesh)
        times = jax.ShapeDtypeStruct((), np.int32)
        updates = Program(several, place(shapes, mesh, specs), times, *numbers_of(config))
        state = making.result()
    return place(state, mesh, specs), updates


def numbers_of(config: Config) -> tuple[Array, dict[str, Array]]:
    """What the program of a run takes beside the state, so that it is the same for other values:
    the number of updates of the run, and what is swept; of several runs `[runs]`."""
    runs, num_updates = members(config), count_updates(config.total_steps, config.ppo)
    swept = {key: jnp.asarray([run.swept[key] for run in runs]) for key in runs[0].swept}
    total = np.int32(num_updates) if len(runs) == 1 else np.full(len(runs), num_updates, np.int32)
    return jnp.asarray(total), swept


def mesh_of(config: Config) -> Mesh | None:
    """The devices that the environments are split over, or several runs; `None` for one."""
    return None if config.num_devices in (None, 1) else make_mesh(config.num_devices)


def _seeds(config: Config) -> np.ndarray:
    seeds = np.asarray([run.seed for run in members(config)], np.uint32)
    return seeds.reshape(()) if len(seeds) == 1 else seeds


def _start(
    config: Config, env: Environment, mesh: Mesh | None, seeds: Integer[Array, "*runs"]
) -> tuple[TrainState, PyTree]:
    """The state before the first update, `[runs, …]` of several, and what of it is where."""

    def one(seed: Array) -> TrainState:
        policy_key, train_key = jax.random.split(make_key(seed, generator=config.generator))
        policy = build_policy(config, env, key=policy_key)
        return init_train(policy, env, config.ppo, key=train_key)

    if seeds.ndim:
        states = eqx.filter_vmap(one)(seeds)
        return states, map_arrays(lambda _: FIRST, states)
    state = one(seeds)
    if mesh is not None:
        check_mesh(mesh, state.policy, config.ppo)
    return state, spread(state)


def _updates(
    config: Config,
    env: Environment,
    mesh: Mesh | None,
    state: TrainState,
    times: Integer[Array, ""],
    num_updates: Integer[Array, "*runs"],
    swept: dict[str, Array],
) -> tuple[TrainState, Metrics]:
    """Makes updates, `times` of them: the state after them, and the metrics of each,
    `[MOST_UPDATES]`, with an axis of runs in front of both where there are several."""
    is_single = num_updates.ndim == 0

    def one(
        state: TrainState, times: Array, num_updates: Array, swept: dict[str, Array]
    ) -> tuple[TrainState, Metrics]:
        once = partial(
            update,
            env=env,
            config=with_numbers(config.ppo.as_arrays(), swept),
            num_updates=num_updates,
            mesh=mesh if is_single else None,
        )
        return filter_repeat(once, state, times, most=MOST_UPDATES)

    if is_single:
        return one(state, times, num_updates, swept)

    def several(state: TrainState, times: Array, *numbers: PyTree) -> tuple[TrainState, Metrics]:
        # The same for all, and not mapped over: else each update would be held against it anew.
        return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None, 0, 0))(
            state, times[0], *numbers
        )

    of_each = jnp.broadcast_to(times, num_updates.shape)
    split = several if mesh is None else on_devices(several, mesh)
    return split(state, of_each, num_updates, swept)
