"""Training: a generator over updates, or the whole run as one pure function."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from .._core.require import require_positive
from .._core.scan import filter_repeat, filter_scan
from .._core.types import Environment, Policy
from .._rollout.audit import LEAST_TOLERANCE, AuditError, audit_tolerance, explain_ratio
from .._rollout.state import is_recurrent
from ..random._keys import KeyLike
from ._config import PPOConfig, check_config
from ._divergence import check_divergence
from ._losses import Loss, ppo_loss
from ._metrics import Metrics
from ._update import TrainState, act_and_judge, flat, init_train, update


def train(
    policy: Policy,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike,
    loss: Loss = ppo_loss,
    updates_per_call: int = 1,
    strict: bool | float = False,
    debug: bool = False,
    mesh: Mesh | None = None,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Trains a policy with PPO, and hands over after every update.

    What is done with an update is the caller's: `for state, metrics in train(…)` may log, save,
    evaluate or break.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`, whose value is a scalar.
    - `env`: anything by the contract of `rlscan.Environment`.
    - `config`: the settings.
    - `total_steps`: environment steps, over all N; the run ends with the last whole update.
    - `key`: consumed.
    - `loss`: what is minimised, see `ppo_loss`.
    - `updates_per_call`: how many updates one compiled call makes. More save its overhead,
        and those of one call are handed over together, each with the state after the last of them.
    - `strict`: whether to stop a run whose first minibatch shows that the policy of an update is
        not the one that acted; or the `audit_error` to allow, where the default for float32 (1e-5
        for discrete actions, 1e-4 for continuous ones) is not the one.
    - `debug`: whether to look into a run that diverges, and say which number was not finite first.
    - `mesh`: devices to split the environments over, see `update`; from `rlscan.make_mesh`.

    **Returns:** an iterator over updates, of `(state, metrics)`; the metrics are NumPy scalars,
    and `rlscan.METRICS` says what each is. It ends early where something was not finite: with the
    update whose metrics have `diverged` 1, and the state before that update, see `update`.

    **Raises:** at once, not at the first update: as `init_train`, and `ValueError` if
    `total_steps` is less than one update. `rlscan.AuditError` from an update, if `strict`;
    `rlscan.DivergenceError`, if `debug`, after the one that diverged.
    """
    num_updates = count_updates(total_steps, config)
    require_positive("updates_per_call", updates_per_call)
    state = init_train(policy, env, config, key=key, mesh=mesh)
    numbers = config.as_arrays()
    is_switch = isinstance(strict, bool | np.bool_)
    tolerance = audit_tolerance(policy, env) if is_switch and strict else float(strict)

    def several(state: TrainState, num_updates: Array, times: Array) -> tuple[TrainState, Metrics]:
        one = partial(
            update, env=env, config=numbers, num_updates=num_updates, loss=loss, mesh=mesh
        )
        return filter_repeat(one, state, times, most=updates_per_call)

    def updates(state: TrainState) -> Iterator[tuple[TrainState, Metrics]]:
        call = eqx.filter_jit(several)
        for done in range(0, num_updates, updates_per_call):
            length = min(updates_per_call, num_updates - done)
            before = state
            state, stacked = call(state, jnp.asarray(num_updates), jnp.asarray(length))
            # At once, as slicing on the device takes milliseconds.
            stacked = {name: x[:length] for name, x in jax.device_get(stacked).items()}
            if strict is not False:
                check_audit(
                    before,
                    stacked,
                    env,
                    numbers,
                    loss,
                    num_updates=num_updates,
                    tolerance=tolerance,
                    mesh=mesh,
                )
            for i in range(length):
                yield state, {name: values[i] for name, values in stacked.items()}
                if stacked["diverged"][i]:
                    if debug:
                        why = partial(check_divergence, num_updates=num_updates, debug=True)
                        why(state, env, numbers, loss, mesh=mesh)
                    return

    return updates(state)


def train_scan(
    policy: Policy,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike,
    loss: Loss = ppo_loss,
) -> tuple[TrainState, Metrics]:
    """The whole run as one pure function: jit it, and map it over seeds or numbers.

    **Arguments:** as for `train`.

    **Returns:** `(state, metrics)`, after the last update, and of every update, `[num_updates]`.
    A seed that diverges is frozen (`update` says how), and leaves others that are mapped over as
    they are; `state.divergence` says where.
    """
    num_updates = count_updates(total_steps, config)
    state = init_train(policy, env, config, key=key)
    one = partial(update, env=env, config=config.as_arrays(), num_updates=num_updates, loss=loss)
    return filter_scan(lambda state, _: one(state), state, length=num_updates)


_MOST_GRADIENT_STEPS = 2**31 - 1  # of an int32


def count_updates(total_steps: int, config: PPOConfig) -> int:
    """How many whole updates `total_steps` environment steps make; `ValueError` if none, or for a
    setting that cannot be."""
    check_config(config)
    per_update = config.num_envs * config.num_steps
    require_positive("total_steps", total_steps)
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


def check_audit(
    state: TrainState,
    metrics: dict[str, Any],
    env: Environment,
    config: PPOConfig,
    loss: Loss = ppo_loss,
    *,
    num_updates: int,
    tolerance: float | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Raises `AuditError`, with the likely cause, if an update of several fails the audit.

    **Arguments:**

    - `state`: before the first of the updates, from where all is computed again.
    - `metrics`: of the updates, `[k]`, on the host.
    - `env`, `config`, `loss`, `mesh`: as for `train`.
    - `num_updates`: of the whole run.
    - `tolerance`: of `audit_error`; that of the kind of actions if not given.
    """
    error = metrics["audit_error"]
    if tolerance is None and (error <= LEAST_TOLERANCE).all():
        return  # mostly so; what is allowed beyond takes a trace to know
    tolerance = audit_tolerance(state.policy, env) if tolerance is None else tolerance
    # NaN has failed, too; unless the update has, and that is what is to be said of it.
    failed = ~(error <= tolerance) & ~(np.isnan(error) & (metrics["diverged"] > 0))
    if not failed.any():
        return
    first = int(failed.argmax())
    one = partial(update, num_updates=num_updates, loss=loss, mesh=mesh)
    for _ in range(first):
        state, _ = eqx.filter_jit(one)(state, env, config)
    policy, _, batch, _ = eqx.filter_jit(act_and_judge)(state, env, config)
    log_ratio = eqx.filter_jit(loss)(policy, batch if is_recurrent(policy) else flat(batch), config)
    recorded = batch.trajectory.log_prob
    log_prob = log_ratio[1][0].reshape(recorded.shape) + recorded
    cause = explain_ratio(policy, env, batch.trajectory, log_prob, tolerance=tolerance)
    raise AuditError(
        f"update {int(state.num_updates) + 1}: before its first gradient step log π is off by "
        f"{metrics['audit_error'][first]:.2g} (relative), where {tolerance:g} is allowed. "
        f"Likely cause: {cause or 'none was found, as outside of the update all is equal'}"
    )
