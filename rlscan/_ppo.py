"""PPO over rollouts that are replayed exactly.

One update is: `rollout` acts → `replay` gives values → `gae` gives advantages → minibatches in
shuffled order take gradients of the loss, which replays them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from ._losses import clipped_policy_loss, clipped_value_loss, normalize, ratio_diagnostics
from ._ppo_config import PPOConfig, check_config
from ._pytree import map_arrays, where
from ._random import KeyLike, as_key
from ._replay import next_value, replay
from ._returns import explained_variance, gae
from ._rollout import (
    RolloutState,
    Trajectory,
    init_rollout,
    is_recurrent,
    require_positive,
    rollout,
)
from ._scan import filter_scan
from ._types import Environment, Policy, PyTree

Metrics = dict[str, Shaped[Array, "..."]]  # floats; counts are integers


class Minibatch(eqx.Module):
    """What a loss is computed from: B steps, or T steps of n environments if recurrent."""

    trajectory: Trajectory  # leaves [B, …], or [T, n, …]
    value: Float[Array, "*B"]  # of the policy that acted
    advantage: Float[Array, "*B"]  # not normalised
    target: Float[Array, "*B"]  # for the value


# `loss(policy, minibatch, config) -> (loss, (log_ratio, metrics))`: a scalar to minimise, the
# log-ratios [B] that the audit and the KL stop look at, and scalars to report.
Loss = Callable[[Policy, Minibatch, PPOConfig], tuple[Array, tuple[Array, Metrics]]]


def ppo_loss(
    policy: Policy, minibatch: Minibatch, config: PPOConfig
) -> tuple[Float[Array, ""], tuple[Float[Array, "*B"], Metrics]]:
    """Clipped surrogate + value_coef · value loss − entropy_coef · entropy, by exact replay.

    The default `loss` of the functions below; write another with the same arguments and results
    to replace it. Advantages are normalised over the minibatch.

    **Returns:** `(loss, (log_ratio, metrics))`, with log π(a | s) − log π_old(a | s) per step.
    """
    log_prob, entropy, value = replay(policy, minibatch.trajectory)
    log_ratio = log_prob - minibatch.trajectory.log_prob
    policy_loss = clipped_policy_loss(log_ratio, normalize(minibatch.advantage), config.clip_range)
    value_loss = clipped_value_loss(
        value, minibatch.value, minibatch.target, config.value_clip_range
    )
    entropy = entropy.mean()
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    return loss, (log_ratio, metrics)


class TrainState(eqx.Module):
    """All that changes during training."""

    policy: Policy
    opt_state: PyTree
    num_gradient_steps: Int[Array, ""]  # applied so far; the learning rate is annealed by them
    rollout_state: RolloutState
    key: PRNGKeyArray  # for the shuffles; split at every update


def train(
    policy: Policy,
    env: Environment,
    config: PPOConfig,
    *,
    total_steps: int,
    key: KeyLike,
    loss: Loss = ppo_loss,
    updates_per_call: int = 1,
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
    - `updates_per_call`: how many updates one compiled call makes. More save its overhead, and
        those of one call are handed over together, each with the state after the last of them.

    **Returns:** an iterator over updates, of `(state, metrics)`; the metrics are NumPy scalars,
    and `rlscan.METRICS` says what each is.

    **Raises:** at once, not at the first update: as `init_train`, and `ValueError` if
    `total_steps` is less than one update.
    """
    num_updates = count_updates(total_steps, config)
    require_positive("updates_per_call", updates_per_call)
    state = init_train(policy, env, config, key=key)
    numbers = config.as_arrays()

    def several(state: TrainState, num_updates: Array, length: int) -> tuple[TrainState, Metrics]:
        one = partial(update, env=env, config=numbers, num_updates=num_updates, loss=loss)
        return filter_scan(lambda state, _: one(state), state, length=length)

    def updates(state: TrainState) -> Iterator[tuple[TrainState, Metrics]]:
        call = eqx.filter_jit(several)
        for done in range(0, num_updates, updates_per_call):
            length = min(updates_per_call, num_updates - done)
            state, stacked = call(state, jnp.asarray(num_updates), length)
            stacked = jax.device_get(stacked)  # at once: slicing on the device takes milliseconds
            for i in range(length):
                yield state, {name: values[i] for name, values in stacked.items()}

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
    """
    num_updates = count_updates(total_steps, config)
    state = init_train(policy, env, config, key=key)
    one = partial(update, env=env, config=config.as_arrays(), num_updates=num_updates, loss=loss)
    return filter_scan(lambda state, _: one(state), state, length=num_updates)


def count_updates(total_steps: int, config: PPOConfig) -> int:
    """How many whole updates `total_steps` environment steps make; `ValueError` if none."""
    per_update = config.num_envs * config.num_steps
    require_positive("total_steps", total_steps)
    if total_steps < per_update:
        raise ValueError(
            f"total_steps = {total_steps} is less than one update, "
            f"num_envs * num_steps = {per_update}; use {per_update} or more"
        )
    return total_steps // per_update


def init_train(policy: Policy, env: Environment, config: PPOConfig, *, key: KeyLike) -> TrainState:
    """The state before the first update.

    **Arguments:** as for `train`.

    **Raises:** as `rlscan.check_policy`; `ValueError` for a setting that cannot be, a policy
    whose value is no scalar, or a key that cannot be replayed.
    """
    rollout_key, shuffle_key = jax.random.split(as_key(key))
    check_config(config, recurrent=is_recurrent(policy))
    rollout_state = init_rollout(policy, env, num_envs=config.num_envs, key=rollout_key)
    _check_value(policy, rollout_state)
    return TrainState(
        policy=policy,
        opt_state=_optimiser(config, 0.0).init(trainable(policy)),
        num_gradient_steps=jnp.zeros((), jnp.int32),
        rollout_state=rollout_state,
        key=shuffle_key,
    )


def update(
    state: TrainState,
    env: Environment,
    config: PPOConfig,
    *,
    num_updates: int | Int[Array, ""],
    loss: Loss = ppo_loss,
) -> tuple[TrainState, Metrics]:
    """One update: T steps in N environments, then the epochs over them. Pure; jit it.

    **Arguments:**

    - `state`: from `init_train` or the last update.
    - `env`, `config`, `loss`: as for `train`.
    - `num_updates`: of the whole run; the learning rate is annealed over them.

    **Returns:** `(state, metrics)`; `rlscan.METRICS` says what each metric is.
    """
    policy = state.policy
    rollout_state, trajectory = rollout(policy, env, state.rollout_state, config.num_steps)
    batch = _with_advantages(policy, rollout_state, trajectory, config)

    shuffle_key, next_key = jax.random.split(state.key)
    num_gradient_steps = num_updates * config.num_epochs * config.num_minibatches
    gradient_step = partial(
        _gradient_step, config=config, loss=loss, num_gradient_steps=num_gradient_steps
    )

    def epoch(learner: _Learner, key: PRNGKeyArray) -> tuple[_Learner, Metrics]:
        minibatches = _shuffle(batch, config.num_minibatches, is_recurrent(policy), key)
        return filter_scan(gradient_step, learner, minibatches)

    learner = _Learner(policy, state.opt_state, state.num_gradient_steps, jnp.asarray(False))
    learner, steps = filter_scan(epoch, learner, jax.random.split(shuffle_key, config.num_epochs))

    metrics = {
        **_episode_metrics(trajectory),
        **_gradient_metrics(steps),
        "explained_variance": explained_variance(batch.value, batch.target),
    }
    return TrainState(
        policy=learner.policy,
        opt_state=learner.opt_state,
        num_gradient_steps=learner.num_gradient_steps,
        rollout_state=rollout_state,
        key=next_key,
    ), metrics


def trainable(policy: Policy) -> PyTree:
    """The leaves that the optimiser moves: floating-point arrays."""
    return eqx.filter(policy, eqx.is_inexact_array)


def _with_advantages(
    policy: Policy, state: RolloutState, trajectory: Trajectory, config: PPOConfig
) -> Minibatch:
    """The whole rollout, `[T, N]`, with what the loss needs beside it."""
    value = trajectory.value if is_recurrent(policy) else replay(policy, trajectory)[2]
    following = next_value(policy, state, trajectory, value)
    one_stream = partial(gae, gamma=config.gamma, gae_lambda=config.gae_lambda)
    advantage, target = jax.vmap(one_stream, in_axes=1, out_axes=1)(
        trajectory.reward, value, following, trajectory.terminated, trajectory.truncated
    )
    steps = dataclasses.replace(trajectory, final=None)
    return Minibatch(trajectory=steps, value=value, advantage=advantage, target=target)


def _shuffle(
    batch: Minibatch, num_minibatches: int, recurrent: bool, key: PRNGKeyArray
) -> Minibatch:
    """M minibatches in a random order, of steps: `[M, B, …]`; of a recurrent policy `[M, T, n, …]`.

    A recurrent policy is trained through time, so its minibatches are taken over environments.
    """
    if not recurrent:
        batch = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch)
    order = jax.random.permutation(key, batch.advantage.shape[1])
    minibatches = order.reshape(num_minibatches, -1)
    take = lambda columns: map_arrays(lambda x: x[:, columns], batch)  # noqa: E731
    shuffled = eqx.filter_vmap(take)(minibatches)
    return shuffled if recurrent else jax.tree.map(lambda x: x.squeeze(1), shuffled)


class _Learner(eqx.Module):
    """What the gradient steps of one update carry."""

    policy: Policy
    opt_state: PyTree
    num_gradient_steps: Int[Array, ""]
    stopped: Bool[Array, ""]  # by `target_kl`, for the rest of this update


def _gradient_step(
    learner: _Learner,
    minibatch: Minibatch,
    *,
    config: PPOConfig,
    loss: Loss,
    num_gradient_steps: int | Int[Array, ""],
) -> tuple[_Learner, Metrics]:
    gradient = eqx.filter_value_and_grad(loss, has_aux=True)
    (total, (log_ratio, metrics)), grads = gradient(learner.policy, minibatch, config)
    diagnostics = ratio_diagnostics(log_ratio, config.clip_range)

    learning_rate = config.learning_rate
    if config.anneal_learning_rate:
        last = jnp.maximum(num_gradient_steps - 1, 1)
        learning_rate *= jnp.maximum(1 - learner.num_gradient_steps / last, 0)
    optimiser = _optimiser(config, learning_rate)
    steps, opt_state = optimiser.update(grads, learner.opt_state, trainable(learner.policy))
    # Judged before the step is applied, so that a step too far is not taken.
    stopped = learner.stopped | (diagnostics["approx_kl"] > config.target_kl)
    moved = _Learner(
        policy=eqx.apply_updates(learner.policy, steps),
        opt_state=opt_state,
        num_gradient_steps=learner.num_gradient_steps + 1,
        stopped=stopped,
    )
    stayed = dataclasses.replace(learner, stopped=stopped)
    return where(stopped, stayed, moved), {
        "loss": total,
        **metrics,
        **diagnostics,
        "max_log_ratio": jnp.abs(log_ratio).max(),
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": jnp.asarray(learning_rate),
        "evaluated": ~learner.stopped,
        "applied": ~stopped,
    }


def _optimiser(config: PPOConfig, learning_rate: float | Array) -> optax.GradientTransformation:
    """Built where it is used, inside the trace, so that its numbers may be traced ones."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(learning_rate, eps=config.adam_eps),
    )


METRICS = {
    "episode_return": "mean undiscounted return of the episodes that ended; NaN if none did",
    "episode_length": "their mean length, in environment steps; NaN if none did",
    "num_episodes": "how many ended",
    "loss": "mean over the minibatches that were looked at, as all of the next five",
    "policy_loss": "clipped surrogate, negated",
    "value_loss": "half the mean squared error",
    "entropy": "of the policy, in nats",
    "kl_k1": "estimate of KL(old, new): mean −log ratio, in nats",
    "approx_kl": "estimate of the same (k3), never negative",
    "clip_fraction": "of the ratios, how many were outside 1 ± clip_range",
    "grad_norm": "global norm of the gradient before clipping",
    "learning_rate": "at the last gradient step",
    "num_gradient_steps": "applied in this update; fewer than all where target_kl ended it",
    "audit_log_ratio": "max |log ratio| of the first minibatch, before any step: 0 up to rounding",
    "audit_clip_fraction": "of its ratios, how many were outside 1 ± clip_range: 0",
    "explained_variance": "of the value targets, by the values that acted",
}
"""What each metric of an update is."""


def _episode_metrics(trajectory: Trajectory) -> Metrics:
    ended = trajectory.terminated | trajectory.truncated
    num_episodes = ended.sum(dtype=jnp.int32)

    def mean(per_episode: Array) -> Array:
        total = jnp.where(ended, per_episode, 0).sum(dtype=jnp.float32)
        return jnp.where(num_episodes > 0, total / num_episodes, jnp.nan)

    return {
        "episode_return": mean(trajectory.episode_return),
        "episode_length": mean(trajectory.episode_length),
        "num_episodes": num_episodes,
    }


def _gradient_metrics(steps: Metrics) -> Metrics:
    """One number each of what the gradient steps reported, `[num_epochs, num_minibatches]`."""
    steps = dict(steps)
    evaluated, applied = steps.pop("evaluated"), steps.pop("applied")
    max_log_ratio, learning_rate = steps.pop("max_log_ratio"), steps.pop("learning_rate")
    means = {name: jnp.mean(values, where=evaluated) for name, values in steps.items()}
    return {
        **means,
        "learning_rate": learning_rate[-1, -1],
        "num_gradient_steps": applied.sum(dtype=jnp.int32),
        "audit_log_ratio": max_log_ratio[0, 0],
        "audit_clip_fraction": steps["clip_fraction"][0, 0],
    }


def _check_value(policy: Policy, state: RolloutState) -> None:
    def value_of(observation: PyTree, policy_state: PyTree, key: PRNGKeyArray) -> PyTree:
        return policy(observation, policy_state, key=key)[1]

    one = map_arrays(lambda leaf: leaf[0], state)
    value = eqx.filter_eval_shape(value_of, one.observation, one.policy_state, one.policy_key)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"PPO needs a policy whose value is a float of shape (), got {value}; "
            f"return value[0] where {type(policy).__name__} returns an array of one"
        )
