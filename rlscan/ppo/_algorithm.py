"""`Algorithm`: what `rlscan.train` trains by, PPO being one."""

import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .._core.require import is_flag, is_number, require_positive
from .._core.scan import describe
from .._core.tree import cast_like
from .._core.types import AnyPolicy, Environment, PyTree
from .._rollout.state import is_recurrent
from ._config import PPOConfig, check_config
from ._hook import OnBatch, check_hook
from ._losses import Loss, ppo_loss
from ._metrics import Metrics
from ._optimizer import Optimizer, check_optimizer
from ._update import TrainState, init_train, update

State = TypeVar("State")

Count = int | Int[Array, "*R"] | Int[np.ndarray, "*R"]


@runtime_checkable
class Algorithm(Protocol[State]):
    """A way to train a policy: any object with these two methods, which are pure.

    An attribute `steps_per_update: int` tells the environment steps of one update, over all
    environments. Without it they are the product of the attributes `num_envs` and `num_steps`.

    The object may be a pytree: its arrays are then arguments of the compiled program, and new
    values compile nothing again.
    """

    def init(self, policy: Any, env: Any, key: Any) -> State:
        """Make the state before the first update, a pytree; `key` is consumed.

        The state holds all that changes, the key of the next update included. `env` may be a part
        of it, so that its arrays can be changed between updates.
        """
        ...

    def update(self, state: State) -> tuple[State, Any]:
        """Make one update, in a compiled program.

        **Returns:** `(state, metrics)`: the next state, of the same structure, shapes and dtypes;
        real numbers in a dict by name.
        """
        ...


class PPO(eqx.Module):
    """PPO as an `rlscan.ppo.Algorithm`: `rlscan.train(policy, env, PPO(config), total_steps=…)`.

    It is what `rlscan.train` makes of a `PPOConfig` and its other arguments.
    """

    num_updates: Count | None
    """The length of the run, over which schedules and annealing are; `None` until `rlscan.train`
    fills it in."""
    config: PPOConfig
    """The settings."""
    loss: Loss
    """The loss."""
    optimizer: Optimizer | None
    """The optimiser; `None` for Adam with the config's settings."""
    on_batch: OnBatch | None
    """What changes each rollout before it is learned from; `None` for nothing."""
    mesh: Mesh | None
    """The devices that an update is split over; `None` for one."""

    def __init__(
        self,
        config: PPOConfig,
        *,
        num_updates: Count | None = None,
        total_steps: int | None = None,
        loss: Loss = ppo_loss,
        optimizer: Optimizer | None = None,
        on_batch: OnBatch | None = None,
        mesh: Mesh | None = None,
    ):
        """**Arguments:**

        - `config`, `loss`, `optimizer`, `on_batch`: as for `rlscan.train`.
        - `num_updates` or `total_steps`: the length of the run, in updates or in environment steps,
            over which schedules and annealing are. `rlscan.train` fills it in if both are left out.
        - `mesh`: devices to split the environments of an update over, see `rlscan.ppo.update`.

        **Raises:** `ValueError` if both lengths are given, or the run has no update.
        """
        if num_updates is not None and total_steps is not None:
            raise ValueError(
                f"PPO takes num_updates or total_steps, got {num_updates} and {total_steps}; leave "
                "one out"
            )
        if total_steps is not None:
            num_updates = count_updates(total_steps, config)
        self.num_updates, self.config = num_updates, config
        self.loss, self.optimizer, self.on_batch, self.mesh = loss, optimizer, on_batch, mesh

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update, over all environments."""
        return self.config.num_envs * self.config.num_steps

    def init(self, policy: AnyPolicy, env: Environment, key: PRNGKeyArray) -> TrainState[AnyPolicy]:
        """Make the state before the first update, with the environment in it.

        **Raises:** whatever `rlscan.ppo.init_train` raises.
        """
        own = {"optimizer": self.optimizer, "on_batch": self.on_batch}
        state = init_train(policy, env, self.config, key=key, **own)
        return dataclasses.replace(state, env=cast_like(env, env))  # with strong types

    def update(self, state: TrainState[AnyPolicy]) -> tuple[TrainState[AnyPolicy], Metrics]:
        """Make one update in `state.env`, see `rlscan.ppo.update`."""
        if state.env is None or self.num_updates is None:
            missing = "num_updates" if state.env is not None else "state.env"
            edit = "PPO(config, num_updates=…)" if state.env is not None else "PPO(…).init"
            raise ValueError(f"an update of PPO needs {missing}, got None; it is set by {edit}")
        return update(
            state,
            state.env,
            self.config.as_arrays(),
            num_updates=jnp.asarray(self.num_updates),
            loss=self.loss,
            optimizer=self.optimizer,
            on_batch=self.on_batch,
            mesh=self.mesh,
        )

    def config_at(self, state: TrainState) -> PPOConfig:
        """The settings of the update that follows a state, as numbers."""
        return self.config.as_arrays().at(state.num_updates, jnp.asarray(self.num_updates))

    def check(self, policy: Any = None) -> None:
        """Raise `ValueError` or `TypeError` for an invalid setting."""
        recurrent = policy is not None and is_recurrent(policy)
        num_updates = self.num_updates if isinstance(self.num_updates, int) else None
        check_config(self.config, recurrent=recurrent, num_updates=num_updates)
        check_optimizer(self.optimizer)
        check_hook(self.on_batch)

    def for_runs(self, axis: tuple[int, ...], mesh: Mesh | None) -> "PPO":
        """The same with NumPy's numbers, and a number of updates for each run of an axis `(R,)`.

        **Raises:** `ValueError` for a setting that is an array of another shape.
        """
        config = self.config.map_numbers(lambda number: np.asarray(number, np.float32))
        for path, number in jax.tree_util.tree_leaves_with_path(config, is_leaf=callable):
            if np.ndim(number) and np.shape(number) != axis:
                raise ValueError(
                    f"config{jax.tree_util.keystr(path)} must be a number, or one for each of "
                    f"several runs {list(axis)}, got an array of shape {np.shape(number)}"
                )
        num_updates = np.full(axis, self.num_updates, np.int32)
        return dataclasses.replace(self, config=config, num_updates=num_updates, mesh=mesh)

    def partition_runs(self) -> tuple["PPO", "PPO"]:
        """Split it into the arrays `[R]` of the settings, one number for each run, and the rest."""
        numbers = lambda ppo: (ppo.num_updates, ppo.config)  # noqa: E731
        nothing = jax.tree.map(lambda _: False, self)
        each = jax.tree.map(lambda x: np.ndim(x) > 0, numbers(self), is_leaf=callable)
        return eqx.partition(self, eqx.tree_at(numbers, nothing, each))


def require_algorithm(algorithm: Any) -> None:
    """Raise `TypeError` unless an object has the methods of an `Algorithm`."""
    if isinstance(algorithm, type):
        raise TypeError(
            f"train needs an algorithm, got the class {algorithm.__name__}; call it: "
            f"{algorithm.__name__}(…)"
        )
    missing = [n for n in ("init", "update") if not callable(getattr(algorithm, n, None))]
    if missing:
        raise TypeError(
            "train needs an rlscan.ppo.PPOConfig, or an algorithm with the methods init(policy, "
            f"env, key) and update(state), got a {type(algorithm).__name__} without "
            f"{' and '.join(missing)}"
        )


def steps_per_update(algorithm: Any) -> int:
    """Environment steps of one update; `ValueError` if the algorithm does not tell."""
    name = type(algorithm).__name__
    given = getattr(algorithm, "steps_per_update", None)
    if given is not None:
        return require_positive(f"steps_per_update of {name}", given)
    sizes = [getattr(algorithm, size, None) for size in ("num_envs", "num_steps")]
    if None in sizes:
        raise ValueError(
            f"{name} must tell the environment steps of one update; add an attribute "
            "steps_per_update, or num_envs and num_steps, whose product it is"
        )
    return require_positive("num_envs", sizes[0]) * require_positive("num_steps", sizes[1])


_MOST_GRADIENT_STEPS = 2**31 - 1  # of an int32


def count_updates(total_steps: int, algorithm: PPOConfig | Algorithm) -> int:
    """Count the whole updates in `total_steps`; `ValueError` if there are none."""
    config = algorithm.config if isinstance(algorithm, PPO) else algorithm
    if isinstance(config, PPOConfig):
        check_config(config)
    per_update = steps_per_update(config)
    total_steps = require_positive("total_steps", total_steps)
    if total_steps < per_update:
        what = "num_envs * num_steps" if isinstance(config, PPOConfig) else "steps_per_update"
        raise ValueError(
            f"total_steps = {total_steps} is less than one update, {what} = {per_update}; use "
            f"{per_update} or more"
        )
    num_updates = total_steps // per_update
    if isinstance(config, PPOConfig):
        _check_gradient_steps(total_steps, num_updates, config)
    return num_updates


def _check_gradient_steps(total_steps: int, num_updates: int, config: PPOConfig) -> None:
    num_gradient_steps = num_updates * config.num_epochs * config.num_minibatches
    if num_gradient_steps > _MOST_GRADIENT_STEPS:
        raise ValueError(
            f"total_steps = {total_steps} makes {num_gradient_steps} gradient steps, which are "
            f"counted up to {_MOST_GRADIENT_STEPS}; use fewer, or larger updates"
        )


def made_update(result: Any, algorithm: Any) -> tuple[PyTree, Metrics]:
    """What an update returned, its metrics as arrays.

    **Raises:** `TypeError` unless it is `(state, metrics)` with a dict; `ValueError` for a metric
    that is not one real number.
    """
    name = f"{type(algorithm).__name__}.update"
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{name} must return (state, metrics), metrics a dict, got {result!r}")
    for metric, value in result[1].items():
        if not (is_number(value) or is_flag(value)):
            raise ValueError(
                f"the metric {metric!r} of {name} must be one real number, got {describe(value)}; "
                "reduce it, such as by jnp.mean"
            )
    return result[0], {metric: jnp.asarray(value) for metric, value in result[1].items()}
