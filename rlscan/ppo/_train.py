"""Training: an iterator over updates, or the whole run as one pure function."""

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh

from .._core.mesh import place
from .._core.program import Program
from .._core.require import require_positive
from .._core.roles import require_one_program
from .._core.scan import filter_scan
from .._core.tree import map_arrays
from .._core.types import AnyPolicy, Environment, Policy, PyTree
from .._core.versions import warn_if_untested
from ..random._keys import KeyLike, as_key, as_keys
from ._algorithm import PPO, Algorithm, State, count_updates, require_algorithm
from ._config import PPOConfig
from ._hook import OnBatch
from ._losses import Loss, ppo_loss
from ._metrics import Metrics
from ._optimizer import Optimizer
from ._start import axis_of, first_state as first_state, placed, require_axis_of_runs, start
from ._training import MOST_UPDATES, Training, several_updates
from ._update import TrainState

START = "start"
"""The name of the program that makes the first state, in `stored_programs`."""


class Settings(TypedDict, total=False):
    """The arguments of `train` that none of its overloads tells apart."""

    key: KeyLike | None
    loss: Loss
    optimizer: Optimizer | None
    on_batch: OnBatch | None
    schedule_steps: int | None
    updates_per_call: int | None
    state_interval: int | None
    strict: bool | float
    debug: bool
    mesh: Mesh | None


@overload
def train(
    policy: AnyPolicy,
    env: Environment,
    config: PPOConfig | PPO,
    *,
    total_steps: int,
    state: None = None,
    **settings: Unpack[Settings],
) -> Training[TrainState[AnyPolicy]]: ...


@overload
def train(
    policy: Callable[..., AnyPolicy],
    env: Environment,
    config: PPOConfig | PPO,
    *,
    total_steps: int,
    state: None = None,
    **settings: Unpack[Settings],
) -> Training[TrainState[AnyPolicy]]: ...


@overload
def train(
    policy: Any,
    env: Environment,
    config: PPOConfig | PPO,
    *,
    total_steps: int,
    state: TrainState[AnyPolicy],
    **settings: Unpack[Settings],
) -> Training[TrainState[AnyPolicy]]: ...


@overload
def train(
    policy: Any,
    env: Environment,
    config: Algorithm[State],
    *,
    total_steps: int,
    state: Any = None,
    **settings: Unpack[Settings],
) -> Training[State]: ...


def train(
    policy: Policy | Callable[..., Policy] | None,
    env: Environment,
    config: PPOConfig | Algorithm,
    *,
    total_steps: int,
    key: KeyLike | None = None,
    state: Any = None,
    loss: Loss = ppo_loss,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    schedule_steps: int | None = None,
    updates_per_call: int | None = None,
    state_interval: int | None = None,
    strict: bool | float = False,
    debug: bool = False,
    mesh: Mesh | None = None,
) -> Training:
    """Train a policy, and hand over the state and the metrics of every update.

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
    - `env`: an environment that follows the contract of `rlscan.Environment`. Its arrays are
        arguments of the program: they can be changed in the state, see `rlscan.ppo.Training`.
    - `config`: the settings of PPO, whose numbers may also be arrays `[R]` for several runs; or
        another `rlscan.ppo.Algorithm`, which returns the state and the metrics of each update.
    - `total_steps`: environment steps of the whole run, over all N environments; the run ends with
        the last whole update.
    - `key`: consumed. Keys `[R]` train R runs side by side in one program, and every array of the
        metrics and of the state gets an axis of runs in front: each run has its own policy, so
        pass a function, or a policy whose arrays are `[R, …]`.
    - `state`: a state to go on from, of an earlier `train` or from `rlscan.ppo.init_train`. The run
        goes on to `total_steps`, and `policy` and `key` are not read. If it holds an environment
        like `env`, the numbers of that one are used. A state without `num_updates`, of another
        algorithm, counts as the first one, and `key` tells whether it is of several runs.
    - `loss`: the function to minimise, see `rlscan.ppo.ppo_loss`.
    - `optimizer`: a function of the learning rate that returns an `optax.GradientTransformation`,
        such as `optax.adamw` or `lambda rate: optax.adamw(rate, mask=…)`. It is called with the
        traced rate of each gradient step. It sees the policy with its trainable arrays alone, in
        at least float32, and the gradient clipped by `max_grad_norm`; a complex array counts as
        two real ones, `[2, …]`. By default it is Adam with `adam_eps`.
    - `on_batch`: a pure function of each rollout, called as `on_batch(policy, trajectory, extra,
        key=…)` before values and advantages are computed. It returns `(trajectory, extra)` with
        other values, such as other rewards; `state.extra` is what it keeps from update to update,
        any pytree. The first one comes from its method `init(policy, env, key=…)`, if it has one,
        and is `()` otherwise. It cannot be used on a `mesh` that splits environments.
    - `schedule_steps`: environment steps over which schedules and annealing are; by default
        `total_steps`. A run that is made longer goes on as it began with the old number.
    - `updates_per_call`: a fixed number of updates in each call; by default the clock decides.
    - `state_interval`: updates after which an exact state is handed over: no call goes past a
        multiple of it.
    - `strict`: whether to stop if the first minibatch of an update shows that its policy is not
        the one that acted. A number sets the largest `audit_error` allowed; by default it is 1e-5
        for discrete and 1e-4 for continuous actions.
    - `debug`: whether to explain a run that diverges by the first number that was not finite.
    - `mesh`: devices to split the environments over, see `rlscan.ppo.update`; several runs are
        split over the devices instead.

    `loss`, `optimizer`, `on_batch`, `schedule_steps`, `strict`, `debug` and `mesh` are PPO's. Each
    update of another algorithm is one call of the program, or as `updates_per_call` says.

    **Returns:** a `Training`: an iterator over `(state, metrics)`. Metrics are NumPy scalars, or
    arrays `[R]`, described in `rlscan.ppo.METRICS`. It ends early if every run has diverged: with
    the update whose metric `diverged` is 1, and the state before that update.

    **Raises:** at once: whatever `rlscan.ppo.init_train` raises, `ValueError` if `total_steps` is
    less than one update, and `TypeError` for an algorithm that is none. While iterating:
    `rlscan.AuditError` if `strict`, after the failing update was handed over;
    `rlscan.ppo.DivergenceError` if `debug`, at the end.
    """
    warn_if_untested()
    algorithm = _algorithm(
        config,
        total_steps,
        schedule_steps=schedule_steps,
        strict=strict,
        debug=debug,
        mesh=mesh,
        loss=loss,
        optimizer=optimizer,
        on_batch=on_batch,
    )
    num_updates = count_updates(total_steps, algorithm)
    if updates_per_call is not None:
        updates_per_call = _updates_in_a_call(updates_per_call, num_updates)
    elif not isinstance(algorithm, PPO):
        updates_per_call = 1  # then its state is the one after the update, whatever it holds
    if state_interval is not None:
        state_interval = require_positive("state_interval", state_interval)
    settings = {
        "num_updates": num_updates,
        "env": env,
        "mesh": mesh,
        "updates_per_call": updates_per_call,
        "state_interval": state_interval,
        "strict": _tolerance(strict),
        "debug": debug,
    }
    at_most = updates_per_call or MOST_UPDATES
    if state is not None:
        axis = axis_of(state, key)
        state = placed(state, env, algorithm, axis, mesh)
        shapes = map_arrays(partial(_shape, has_place=mesh is not None), state)
        algorithm, program, numbers = _program(algorithm, axis, mesh, at_most, shapes)
        return Training(state, algorithm=algorithm, program=program, numbers=numbers, **settings)
    if key is None:
        raise ValueError("train needs a key to start with, such as key=rlscan.key(0)")
    keys = as_keys(key)
    require_axis_of_runs(policy, keys)
    num_runs, num_devices = math.prod(keys.shape), 1 if mesh is None else mesh.size
    require_one_program(env, num_runs=num_runs, num_devices=num_devices)
    begin = Program(partial(start, env, algorithm, mesh), policy, keys, stored_as=START)
    shapes, specs = begin.result
    # The updates are traced while XLA compiles the start.
    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(lambda: begin.compile()(policy, keys)[0])
        shapes = place(shapes, mesh, specs)
        algorithm, program, numbers = _program(algorithm, keys.shape, mesh, at_most, shapes)
        first = place(made.result(), mesh, specs)
    return Training(first, algorithm=algorithm, program=program, numbers=numbers, **settings)


def _shape(x: Any, has_place: bool) -> jax.ShapeDtypeStruct:
    """The shape of an array as a new run has it, which is traced before its state is made."""
    is_weak, sharding = jax.typeof(x).weak_type, x.sharding if has_place else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=is_weak, sharding=sharding)


def _algorithm(
    config: Any,
    total_steps: int,
    *,
    schedule_steps: int | None,
    strict: Any,
    debug: bool,
    mesh: Mesh | None,
    loss: Loss,
    optimizer: Optimizer | None,
    on_batch: OnBatch | None,
) -> Any:
    """The algorithm to train by: PPO with these settings, or the one that was given."""
    is_ppo = isinstance(config, PPOConfig | PPO)
    if not is_ppo:
        require_algorithm(config)
    whose = "train with a PPOConfig" if is_ppo else "train with PPO"
    given = {"strict": strict is not False, "debug": debug, "mesh": mesh is not None}
    given = {} if is_ppo else given
    if not isinstance(config, PPOConfig):
        given |= {"loss": loss is not ppo_loss, "optimizer": optimizer is not None}
        given |= {"on_batch": on_batch is not None, "schedule_steps": schedule_steps is not None}
    for name in (name for name, is_given in given.items() if is_given):
        raise ValueError(
            f"{name} is an argument of {whose}, got it beside a {type(config).__name__}; leave it "
            "out, or give it to the algorithm if it has one"
        )
    if not is_ppo:
        return config
    ppo = (
        config
        if isinstance(config, PPO)
        else PPO(config, loss=loss, optimizer=optimizer, on_batch=on_batch)
    )
    if ppo.num_updates is None:
        num_updates = count_updates(schedule_steps or total_steps, ppo)
        ppo = dataclasses.replace(ppo, num_updates=num_updates)
    ppo.check()
    return ppo


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


def _program(
    algorithm: Any, axis: tuple[int, ...], mesh: Mesh | None, at_most: int, state: PyTree
) -> tuple[Any, Program, tuple[PyTree, PyTree]]:
    """Trace the program of the updates for a state, or for its shapes.

    **Returns:** the algorithm; the program; and its arguments beside the state and the number of
    updates: the algorithm's arrays, those that each run has its own of, and the others. A program
    is the same whatever their values are.
    """
    own, rest = eqx.partition(algorithm, False)
    if isinstance(algorithm, PPO):
        algorithm = algorithm.for_runs(axis, None if axis else mesh)
        own, rest = algorithm.partition_runs()
    shared, rest = eqx.partition(rest, eqx.is_array)
    updates = partial(several_updates, rest, axis, mesh, at_most)
    times = jax.ShapeDtypeStruct((), np.int32)
    program = Program(updates, state, times, own, shared, stored_as="updates")
    return algorithm, program, (own, shared)


def train_scan(
    policy: AnyPolicy,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike,
    loss: Loss = ppo_loss,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    schedule_steps: int | None = None,
) -> tuple[TrainState[AnyPolicy], Metrics]:
    """Train as one pure function of the whole run: jit it, and map it over seeds or numbers.

    **Arguments:** as for `train`.

    **Returns:** `(state, metrics)`: the state after the last update, and the metrics of every
    update, `[num_updates]`. A run that diverges is frozen, see `rlscan.ppo.update`, and leaves
    other runs that are mapped over as they are; `state.divergence` tells where.
    """
    num_updates = count_updates(total_steps, config)
    length = schedule_steps or total_steps
    own = {"loss": loss, "optimizer": optimizer, "on_batch": on_batch}
    ppo = PPO(config, total_steps=length, **own)
    ppo.check()
    state = ppo.init(policy, env, as_key(key))
    return filter_scan(lambda state, _: ppo.update(state), state, length=num_updates)
