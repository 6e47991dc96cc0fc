"""Training: an iterator over updates, or the whole run as one pure function."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer, Key, PRNGKeyArray

from .._core.mesh import FIRST, on_devices, place
from .._core.program import Program
from .._core.require import require_positive
from .._core.scan import filter_repeat, filter_scan
from .._core.tree import map_arrays
from .._core.types import Environment, Policy, PyTree
from .._rollout.state import is_recurrent
from ..random._keys import KeyLike, as_keys
from ._config import PPOConfig, check_config
from ._losses import Loss, ppo_loss
from ._metrics import Metrics, until_diverged
from ._pace import Pace
from ._runs_axis import over_runs
from ._update import TrainState, check_mesh, init_train, state_specs, update
from ._verdicts import check_audit, check_divergences

MOST_UPDATES = 256
"""The most updates that one call of a run's compiled program makes."""


def train(
    policy: Policy | Callable[..., Policy] | None,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike | None = None,
    state: TrainState | None = None,
    loss: Loss = ppo_loss,
    updates_per_call: int | None = None,
    state_interval: int | None = None,
    strict: bool | float = False,
    debug: bool = False,
    mesh: Mesh | None = None,
) -> "Training":
    """Train a policy with PPO, and hand over the state and the metrics of every update.

    The caller decides what to do with an update: `for state, metrics in train(…)` may log, save,
    evaluate or break. `rlscan.runs.Run` keeps a loop in a run directory from which it resumes.

    Several updates are made in one call of the compiled program, as many as take a tenth of a
    second. Those of one call are handed over one after another, each with its own metrics, and with
    the state after the last of them: `state.num_updates` tells which that is. Set `state_interval`
    or `updates_per_call` to fix the updates whose exact state you need.

    **Arguments:**

    - `policy`: an `eqx.Module` that follows the contract of `rlscan.Policy` and whose value is a
        scalar; or a function that makes one, called as `policy(key=…)`, such as
        `functools.partial(rlscan.policies.ActorCritic, env, dropout=0.1)`.
    - `env`: an environment that follows the contract of `rlscan.Environment`.
    - `config`: the settings. For several runs its numbers may also be arrays `[R]`.
    - `total_steps`: environment steps of the whole run, over all N environments; the run ends with
        the last whole update.
    - `key`: consumed. Keys `[R]` train R runs side by side in one program, and every array of the
        metrics and of the state gets an axis of runs in front: each run has its own policy, so
        pass a function, or a policy whose arrays are `[R, …]`.
    - `state`: a state to go on from, of an earlier `train` or from `rlscan.ppo.init_train`. The run
        goes on to `total_steps`, and `policy` and `key` are not read.
    - `loss`: the function to minimise, see `rlscan.ppo.ppo_loss`.
    - `updates_per_call`: a fixed number of updates in each call; by default the clock decides.
    - `state_interval`: updates after which an exact state is handed over: no call goes past a
        multiple of it.
    - `strict`: whether to stop if the first minibatch of an update shows that its policy is not
        the one that acted. A number sets the largest `audit_error` allowed; by default it is 1e-5
        for discrete and 1e-4 for continuous actions.
    - `debug`: whether to explain a run that diverges by the first number that was not finite.
    - `mesh`: devices to split the environments over, see `rlscan.ppo.update`; several runs are
        split over the devices instead.

    **Returns:** a `Training`: an iterator over `(state, metrics)`. Metrics are NumPy scalars, or
    arrays `[R]`, described in `rlscan.ppo.METRICS`. It ends early if every run has diverged: with
    the update whose metric `diverged` is 1, and the state before that update.

    **Raises:** at once: whatever `rlscan.ppo.init_train` raises, and `ValueError` if `total_steps`
    is less than one update. While iterating: `rlscan.AuditError` if `strict`, after the failing
    update was handed over; `rlscan.ppo.DivergenceError` if `debug`, at the end.
    """
    num_updates = count_updates(total_steps, config)
    if updates_per_call is not None:
        updates_per_call = _updates_in_a_call(updates_per_call, num_updates)
    if state_interval is not None:
        state_interval = require_positive("state_interval", state_interval)
    strict = _tolerance(strict)
    several = partial(_several_updates, env, loss, mesh, updates_per_call or MOST_UPDATES)
    first: TrainState
    if state is None:
        if key is None:
            raise ValueError("train needs a key to start with, such as key=rlscan.key(0)")
        keys = as_keys(key)
        _require_axis_of_runs(policy, keys)
        start = Program(partial(_start, env, config, mesh), policy, keys)
        shapes, specs = start.result
        arguments = _arguments(config, num_updates, shapes)
        # The updates are traced while XLA compiles the start.
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(lambda: start.compile()(policy, keys)[0])
            program = Program(several, place(shapes, mesh, specs), *arguments)
            first = place(made.result(), mesh, specs)
    else:
        first = _placed(state, mesh, config)
        arguments = _arguments(config, num_updates, first)
        program = Program(several, first, *arguments)
    return Training(
        first,
        num_updates,
        env=env,
        config=config,
        loss=loss,
        mesh=mesh,
        updates_per_call=updates_per_call,
        state_interval=state_interval,
        strict=strict,
        debug=debug,
        _program=program,
        _numbers=arguments[1:],
    )


def _updates_in_a_call(asked: int, num_updates: int) -> int:
    """The number of updates in a call if one is asked for; each has its own metrics."""
    found = min(require_positive("updates_per_call", asked), num_updates)
    if found > 2**20:
        raise ValueError(
            f"updates_per_call must be at most {2**20}, since a call keeps the metrics of all its "
            f"updates, got {asked}; leave it out, and the clock decides"
        )
    return found


def _tolerance(strict: Any) -> bool | float:
    """`strict` as a Python value; `ValueError` if it is neither a switch nor a tolerance."""
    if isinstance(strict, bool | np.bool_):
        return bool(strict)
    if isinstance(strict, int | float | np.number) and 0 < strict < np.inf:
        return float(strict)
    raise ValueError(
        f"strict must be True, False, or the largest audit_error allowed, such as 1e-4, "
        f"got {strict!r}"
    )


@dataclasses.dataclass
class Training(Iterator[tuple[TrainState, dict[str, Any]]]):
    """The updates of a run, made as they are asked for; `train` returns one."""

    state: TrainState
    """The state after the last call of the program; at first the one that training starts from."""
    num_updates: int
    """The number of updates of the whole run."""

    # As for `train`.
    env: Environment
    config: PPOConfig
    loss: Loss
    mesh: Mesh | None
    updates_per_call: int | None
    state_interval: int | None
    strict: bool | float
    debug: bool

    _program: Program
    _numbers: tuple[PyTree, ...]  # the arguments of the program beside the state
    _num_left: int = 0  # updates that were not handed over yet
    _call: Callable[..., tuple[TrainState, Metrics]] | None = None  # the program, compiled

    def __post_init__(self) -> None:
        self._num_left = self.num_updates - _updates_made(self.state)
        self._updates = self._iterate()

    def __next__(self) -> tuple[TrainState, dict[str, Any]]:
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

    def _iterate(self) -> Iterator[tuple[TrainState, dict[str, Any]]]:
        self.compile()
        call: Any = self._call
        pace = Pace(
            lambda state, times: call(state, times, *self._numbers),
            at_most=self.updates_per_call or MOST_UPDATES,
            fixed=self.updates_per_call,
        )
        interval = self.state_interval or self.num_updates
        while self._num_left > 0 and not _have_all_diverged(self.state):
            before, made = self.state, self.num_updates - self._num_left
            self.state, metrics = pace(before, min(interval - made % interval, self._num_left))
            metrics = until_diverged(metrics)
            for i in range(metrics["diverged"].shape[-1]):
                self._num_left -= 1
                own = {name: values[..., i] for name, values in metrics.items()}
                yield self.state, own
                if self.strict is not False:
                    check_audit(self, before, own, num_since=i)
        if self.debug:
            check_divergences(self, self.state, debug=True)


def _updates_made(state: TrainState) -> int:
    """The number of updates of the run that went furthest: diverged ones are left behind."""
    return int(np.max(np.asarray(state.num_updates)))


def _have_all_diverged(state: TrainState) -> bool:
    return bool(np.all(np.asarray(state.divergence.update) > 0))


def _start(
    env: Environment,
    config: PPOConfig,
    mesh: Mesh | None,
    policy: Any,
    keys: Key[Array, "*R"],
) -> tuple[TrainState, PyTree]:
    """Make the state before the first update, and its place on a mesh."""
    state = first_state(policy, env, config, keys)
    if mesh is not None and not keys.ndim:
        check_mesh(mesh, state.policy, config)
    return state, _specs(state)


def first_state(
    policy: Any, env: Environment, config: PPOConfig, keys: Key[Array, "*R"]
) -> TrainState:
    """Make the state before the first update, from a policy or a function that makes one."""

    def one(policy: Any, key: PRNGKeyArray) -> TrainState:
        if _is_factory(policy):
            policy_key, key = jax.random.split(key)
            policy = policy(key=policy_key)
        return init_train(policy, env, config, key=key)

    return over_runs(one, keys.shape)(policy, keys)


def _specs(state: TrainState) -> PyTree:
    """Where the arrays of a state are on a mesh: several runs are split as they are."""
    return map_arrays(lambda _: FIRST, state) if state.num_updates.ndim else state_specs(state)


def _is_factory(policy: Any) -> bool:
    return callable(policy) and not hasattr(policy, "initial_state")


def _require_axis_of_runs(policy: Any, keys: Key[Array, "*R"]) -> None:
    if not keys.ndim or _is_factory(policy):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(policy, eqx.is_array)):
        if leaf.shape[:1] != keys.shape:
            raise ValueError(
                f"for {len(keys)} keys every array of the policy must have a first axis of "
                f"{len(keys)} runs, got policy{jax.tree_util.keystr(path)} of shape {leaf.shape}; "
                "pass a function that makes a policy, such as "
                "functools.partial(rlscan.policies.ActorCritic, env), "
                "or one made by eqx.filter_vmap"
            )


def _placed(state: TrainState, mesh: Mesh | None, config: PPOConfig) -> TrainState:
    """Check a state to go on from, and put it where the program expects it."""
    check_config(config, recurrent=is_recurrent(state.policy))
    if mesh is None:
        return state
    if not state.num_updates.ndim:
        check_mesh(mesh, state.policy, config)
    return place(state, mesh, _specs(state))


def _arguments(
    config: PPOConfig, num_updates: int, state: PyTree
) -> tuple[jax.ShapeDtypeStruct, np.ndarray, PyTree]:
    """What the program takes beside the state: updates in a call, updates of the run, numbers.

    The numbers are the settings, those that differ between runs and the others: a program is the
    same whatever they are.
    """
    runs = state.num_updates.shape
    settings = jax.tree.map(lambda number: np.asarray(number, np.float32), config)
    own, shared = eqx.partition(settings, lambda x: np.ndim(x) > 0)
    for path, number in jax.tree_util.tree_leaves_with_path(own):
        if np.shape(number) != runs:
            raise ValueError(
                f"config{jax.tree_util.keystr(path)} must be a number, or one for each of several "
                f"runs {list(runs)}, got an array of shape {np.shape(number)}"
            )
    total = np.full(runs, num_updates, np.int32)
    return jax.ShapeDtypeStruct((), np.int32), total, (own, shared)


def _several_updates(
    env: Environment,
    loss: Loss,
    mesh: Mesh | None,
    at_most: int,
    state: TrainState,
    times: Integer[Array, ""],
    num_updates: Integer[Array, "*R"],
    configs: tuple[PPOConfig, PPOConfig],
) -> tuple[TrainState, Metrics]:
    """Make `times` updates: the state after them, and their metrics, `[*R, at_most]`."""
    is_single = num_updates.ndim == 0
    own, shared = configs

    def one(
        state: TrainState, times: Array, num_updates: Array, own: PyTree
    ) -> tuple[TrainState, Metrics]:
        once = partial(
            update,
            env=env,
            config=eqx.combine(own, shared).as_arrays(),
            num_updates=num_updates,
            loss=loss,
            mesh=mesh if is_single else None,
        )
        return filter_repeat(once, state, times, most=at_most)

    if is_single:
        return one(state, times, num_updates, own)

    def several(state: TrainState, times: Array, *numbers: PyTree) -> tuple[TrainState, Metrics]:
        # Not mapped over, because a loop with a bound for each run would compare them every time.
        return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None, 0, eqx.if_array(0)))(
            state, times[0], *numbers
        )

    of_each = jnp.broadcast_to(times, num_updates.shape)
    split = several if mesh is None else on_devices(several, mesh)
    return split(state, of_each, num_updates, own)


def train_scan(
    policy: Policy,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike,
    loss: Loss = ppo_loss,
) -> tuple[TrainState, Metrics]:
    """Train as one pure function of the whole run: jit it, and map it over seeds or numbers.

    **Arguments:** as for `train`.

    **Returns:** `(state, metrics)`: the state after the last update, and the metrics of every
    update, `[num_updates]`. A run that diverges is frozen, see `rlscan.ppo.update`, and leaves
    other runs that are mapped over as they are; `state.divergence` tells where.
    """
    num_updates = count_updates(total_steps, config)
    state = init_train(policy, env, config, key=key)
    one = partial(update, env=env, config=config.as_arrays(), num_updates=num_updates, loss=loss)
    return filter_scan(lambda state, _: one(state), state, length=num_updates)


_MOST_GRADIENT_STEPS = 2**31 - 1  # of an int32


def count_updates(total_steps: int, config: PPOConfig) -> int:
    """Count the whole updates in `total_steps`; `ValueError` if there are none."""
    check_config(config)
    per_update = config.num_envs * config.num_steps
    total_steps = require_positive("total_steps", total_steps)
    if total_steps < per_update:
        raise ValueError(
            f"total_steps = {total_steps} is less than one update, "
            f"num_envs * num_steps = {per_update}; use {per_update} or more"
        )
    num_updates = total_steps // per_update
    num_gradient_steps = num_updates * config.num_epochs * config.num_minibatches
    if num_gradient_steps > _MOST_GRADIENT_STEPS:
        raise ValueError(
            f"total_steps = {total_steps} makes {num_gradient_steps} gradient steps, which are "
            f"counted up to {_MOST_GRADIENT_STEPS}; use fewer, or larger updates"
        )
    return num_updates
