"""`explain_divergence`: find the first number that was not finite, by name."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array

from .._core.mesh import WHOLE, mean_over_devices, sharded
from .._core.types import Environment, PyTree
from ._config import PPOConfig
from ._finite import place_of, stay_finite, which_are_finite
from ._hook import OnBatch
from ._losses import Loss, Minibatch, ppo_loss
from ._optimizer import Optimizer
from ._update import TrainState, attempt, collect, state_specs, statistics_of


def explain_divergence(
    state: TrainState,
    env: Environment,
    config: PPOConfig,
    *,
    num_updates: int,
    loss: Loss = ppo_loss,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    mesh: Mesh | None = None,
) -> str | None:
    """Name the first number that was not finite; `None` if the run has not diverged.

    A diverged state is the one before the failing update, keys included. The update is made once
    more, and its numbers are examined in the order of computation: in the rollout, observation,
    action, value, log-probability and reward, step by step; in each gradient step the loss, the
    gradient, and the parameters after it. An infinite observation may leave all of a rollout finite
    and harm the gradient; then both are named. Do not use it under `jit`.

    **Arguments:**

    - `state`: a diverged state of one run.
    - `env`, `config`, `num_updates`, `loss`, `optimizer`, `on_batch`, `mesh`: as for the `update`
        that diverged.

    **Returns:** a line such as `update 3, minibatch 2: the gradient of
    policy.actor.layers[0].weight is not finite`.
    """
    if not state.divergence.update > 0:
        return None
    config = config.as_arrays().at(state.num_updates, num_updates)
    culprit = _in_rollout(eqx.filter_jit(collect)(state, env, config, on_batch)[2])
    if state.divergence.minibatch > 0:
        repeat = partial(_repeat, env, config, num_updates, loss, optimizer, on_batch)
        if mesh is not None:
            repeat = sharded(repeat, mesh, (state_specs(state),), WHOLE)
        steps, statistics = jax.device_get(eqx.filter_jit(repeat)(state))
        which = divmod(int(state.divergence.minibatch) - 1, config.num_minibatches)
        harm = _in_step(jax.tree.map(lambda x: x[which], steps))
        harm = harm or _first("the statistic policy{}", statistics[0])
        harm = harm or _first("the number extra{} of on_batch", statistics[1])
        culprit = "; then ".join(found for found in (culprit, harm) if found)
    # This is a different program, which may round a borderline number to the other side.
    return f"{place_of(state.divergence)}: {culprit or 'all is finite when it is made again'}"


def _in_rollout(batch: Minibatch) -> str | None:
    """Find the earliest number in a rollout that is not finite."""
    steps = batch.trajectory
    in_order = {"observation": steps.observation, "action": steps.action, "value": batch.value}
    in_order |= {"log_prob": steps.log_prob, "reward": steps.reward}
    found = []
    for path, leaf in tree_flatten_with_path(in_order)[0]:
        at = _not_finite(leaf)
        if len(at):
            name, rest = path[0].key, keystr(path[1:])
            found.append(
                (at[0][0], list(in_order).index(name), name + _first_entry(rest, leaf, at))
            )
    if found:
        return min(found)[-1]
    at = _not_finite(batch.advantage)  # GAE spreads it backwards, so the last one is the cause
    if len(at):
        t, n = at[-1]
        found = f"the value of what followed step {t} of environment {n} is not finite"
        if steps.truncated[t, n] and not steps.terminated[t, n]:
            found += (
                "; it was truncated there: if the environment declares a time_limit, none of its "
                "episodes may be truncated earlier, and if it declares final_slots, none may be "
                "truncated more often in one rollout"
            )
        return found
    return "the value target overflows" if len(_not_finite(batch.target)) else None


def _first_entry(path: str, leaf: Array, at: np.ndarray) -> str:
    """Describe the first number of a leaf `[T, N, …]` that is not finite, after `_not_finite`."""
    (t, n), (_, num_envs) = at[0], leaf.shape[:2]
    numbers = np.asarray(leaf[t, n])
    entries = np.argwhere(~np.isfinite(numbers))
    # All entries of an array at once are named by the array.
    entry = "" if len(entries) == numbers.size else f"{list(map(int, entries[0]))}"
    num_off = len(set(at[:, 1]))
    return (
        f"{path}{entry} is not finite, first at step {t} of environment {n}, where it is "
        f"{numbers[tuple(entries[0])]}, and in {num_off} of {num_envs} environments in all"
    )


def _not_finite(leaf: Array) -> np.ndarray:
    """List `(t, n)` of the steps in `[T, N, …]` with a number that is not finite, in order."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return np.zeros((0, 2), int)
    bad = ~np.asarray(jnp.isfinite(leaf))
    return np.argwhere(bad.reshape(*bad.shape[:2], -1).any(axis=-1))


def _in_step(step: dict[str, Any]) -> str | None:
    """Find the first quantity of a gradient step that is not finite."""
    finite, metrics = step["finite"], step["metrics"]
    broken = {name: x for name, x in metrics.items() if not np.isfinite(x)}
    if "loss" in broken:
        parts = ", ".join(f"{n} {x}" for n, x in broken.items() if n not in ("loss", "grad_norm"))
        return f"the loss is {broken['loss']}{f' ({parts})' if parts else ''}"
    gradient = _first("the gradient of policy{}", finite["gradient"])
    if gradient is None and "grad_norm" in broken:
        gradient = "the gradient is finite, but its global norm is not"
    return gradient or _first("the parameter policy{}, after the step,", finite["parameter"])


def _first(what: str, finite: PyTree) -> str | None:
    paths = [keystr(path) for path, is_finite in tree_flatten_with_path(finite)[0] if not is_finite]
    if not paths:
        return None
    others = f"; nor are {len(paths) - 1} other leaves" if len(paths) > 1 else ""
    return f"{what.format(paths[0])} is not finite{others}"


def _repeat(
    env: Environment,
    config: PPOConfig,
    num_updates: int,
    loss: Loss,
    optimizer: Optimizer | None,
    on_batch: OnBatch | None,
    state: TrainState,
) -> tuple[dict[str, PyTree], PyTree]:
    """Make an update again, and test each leaf.

    **Returns:** the reports of its gradient steps, `[num_epochs, num_minibatches]`, and which of
    the statistics that move after them are finite.
    """
    own = {"optimizer": optimizer, "on_batch": on_batch}
    after, _, reports = attempt(state, env, config, num_updates, loss, which_are_finite, **own)
    return (
        {"metrics": mean_over_devices(reports["metrics"]), "finite": reports["finite"]},
        stay_finite(*map(statistics_of, (state, after))),
    )
