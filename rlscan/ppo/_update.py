"""One update of PPO over a rollout that is replayed exactly.

`rollout` acts → `replay` gives values → `gae` gives advantages → minibatches in shuffled order take
gradients of the loss, which replays them.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Generic

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._core.field_docs import with_field_docs
from .._core.mesh import (
    FIRST,
    WHOLE,
    are_divided,
    device_key,
    gather_environments,
    place,
    require_divisible,
    sharded,
)
from .._core.scan import filter_scan
from .._core.tree import clone_keys, map_arrays, where
from .._core.types import AnyPolicy, Environment, Policy, PyTree
from .._rollout.gae import explained_variance, gae
from .._rollout.next_observation import next_observation
from .._rollout.next_value import next_value
from .._rollout.replay import replay
from .._rollout.rollout import init_rollout, rollout
from .._rollout.state import RolloutState, Trajectory, is_recurrent
from .._rollout.statistics import move_statistics
from ..nn._dropout import anneal
from ..nn._statistics import WithStatistics
from ..nn._trainable import partition_trainable
from ..random._keys import KeyLike, as_key
from ._config import PPOConfig, check_config
from ._finite import (
    Divergence,
    all_finite,
    every,
    first_divergence,
    is_step_finite,
    no_divergence,
    stay_finite,
)
from ._gradient_step import Learner, gradient_step
from ._hook import OnBatch, call_hook, check_hook, first_extra
from ._losses import Loss, Minibatch, ppo_loss
from ._metrics import Metrics, episode_metrics, episodes_of, flag_divergence, gradient_metrics
from ._minibatches import random_order
from ._optimizer import Optimizer, check_optimizer, init_optimizer
from ._recent_returns import RecentReturns, add_returns, mean_return, no_returns
from ._reward_scaling import RewardScaling, init_reward_scaling, scale_rewards


@with_field_docs
class TrainState(eqx.Module, Generic[AnyPolicy]):
    """Everything that changes during training.

    `rlscan.runs.save_checkpoint` writes it to a file, and `rlscan.runs.load_checkpoint` reads it
    again. `pickle` and `eqx.tree_serialise_leaves` cannot, because they take no keys.
    """

    policy: AnyPolicy
    """The policy."""
    opt_state: PyTree
    """The state of the optimiser."""
    num_updates: Int[Array, ""]
    """Updates made so far; schedules and annealed layers follow it."""
    num_gradient_steps: Int[Array, ""]
    """Gradient steps applied so far; the learning rate is annealed by it."""
    rollout_state: RolloutState
    """The environments between two rollouts."""
    key: PRNGKeyArray
    """The key of the next update, split at every one."""
    divergence: Divergence
    """Where the run has diverged; once set, all else stays as it was before that update."""
    reward_scaling: RewardScaling | None = None
    """What rewards are divided by, if the config has `scale_rewards`."""
    env: Environment | None = None
    """The environment, whose arrays may change between updates, see `rlscan.ppo.Training`."""
    extra: PyTree = ()
    """What `on_batch` keeps."""
    recent_returns: RecentReturns = eqx.field(default_factory=no_returns)
    """The returns of the last 100 episodes."""


def init_train(
    policy: AnyPolicy,
    env: Environment,
    config: PPOConfig,
    *,
    key: KeyLike,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    mesh: Mesh | None = None,
) -> TrainState[AnyPolicy]:
    """Make the state before the first update.

    **Arguments:** as for `rlscan.train`.

    **Raises:** whatever `rlscan.check_policy` raises; `ValueError` for an invalid setting, a policy
    whose value is not a scalar, or a key that cannot be replayed; `TypeError` for an optimiser or a
    hook that is none.
    """
    key = as_key(key)
    check_config(config, recurrent=is_recurrent(policy))
    check_optimizer(optimizer)
    check_hook(on_batch)
    extra = first_extra(on_batch, policy, env, key)
    rollout_key, shuffle_key = jax.random.split(key)
    rollout_state = init_rollout(
        policy,
        env,
        num_envs=config.num_envs,
        key=rollout_key,
        shared_noise=config.shared_noise,
    )
    _check_value(policy, rollout_state)
    state = TrainState(
        policy=policy,
        # Jitted, because compiling its small programs one by one takes a tenth of a second.
        opt_state=eqx.filter_jit(init_optimizer)(partition_trainable(policy)[0], optimizer),
        num_updates=jnp.zeros((), jnp.int32),
        num_gradient_steps=jnp.zeros((), jnp.int32),
        rollout_state=rollout_state,
        key=shuffle_key,
        divergence=no_divergence(),
        reward_scaling=init_reward_scaling(config.num_envs) if config.scale_rewards else None,
        extra=extra,
    )
    return state if mesh is None else on_mesh(state, mesh, config)


def update(
    state: TrainState[AnyPolicy],
    env: Environment,
    config: PPOConfig,
    *,
    num_updates: int | Int[Array, ""],
    loss: Loss = ppo_loss,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState[AnyPolicy], Metrics]:
    """Make one update: T steps in N environments, then the epochs over them. Pure; jit it.

    **Arguments:**

    - `state`: from `init_train` or the previous update.
    - `env`, `config`, `loss`, `optimizer`, `on_batch`: as for `train`. `state.env` is not read.
    - `num_updates`: of the whole run; schedules and annealing are over them.
    - `mesh`: devices to split the environments over, from `rlscan.make_mesh`. Each device acts in
        its own environments, shuffles its own steps, and contributes its part to each minibatch;
        gradients and metrics are averaged over devices. Whatever is normalised over a minibatch is
        normalised over each part.

    **Returns:** `(state, metrics)`; `rlscan.ppo.METRICS` describes the metrics.

    If the loss, the gradient or a parameter is not finite after a gradient step, or if the targets
    of the rollout are not, the whole update is taken back bit by bit, including environments, keys
    and counts. `state.divergence` tells where it happened, and later updates change nothing. A
    minibatch at which `target_kl` ends the update takes no step, so it is not examined.
    """
    config = config.at(state.num_updates, num_updates)
    if mesh is not None:  # each device runs this same function for its own environments
        check_mesh(mesh, state.policy, config, on_batch)
        settings = {"num_updates": num_updates, "loss": loss, "optimizer": optimizer}
        on_each = partial(update, env=env, config=config, **settings)
        specs = state_specs(state)
        return sharded(on_each, mesh, (specs,), (specs, WHOLE))(state)

    own = {"optimizer": optimizer, "on_batch": on_batch}
    after, batch, reports = attempt(state, env, config, num_updates, loss, is_step_finite, **own)
    finite = reports.pop("finite") | ~reports["applied"]
    episodes = episodes_of(batch.trajectory)
    recent_returns = add_returns(state.recent_returns, *episodes[:2])
    after = dataclasses.replace(after, recent_returns=recent_returns)
    metrics = {
        **episode_metrics(*episodes),
        "return_mean_100": mean_return(recent_returns),
        **gradient_metrics(reports),
        "explained_variance": explained_variance(*gather_environments((batch.value, batch.target))),
    }
    divergence = first_divergence(
        state.divergence,
        state.num_updates + 1,
        # A sum is finite if both terms are: one pass over everything that an update learns from.
        rollout=all_finite(batch.target + batch.trajectory.log_prob),
        steps=finite,
        statistics=every(stay_finite(*map(statistics_of, (state, after)))),
    )
    was_frozen, is_frozen = state.divergence.update > 0, divergence.update > 0
    frozen = dataclasses.replace(state, divergence=divergence)
    return where(is_frozen, frozen, after), flag_divergence(metrics, was_frozen, is_frozen)


def statistics_of(state: TrainState) -> tuple[PyTree, PyTree]:
    """What changes in an update, but not by gradients: in the policy, and the hook's extra."""
    return partition_trainable(state.policy)[1], state.extra


def attempt(
    state: TrainState,
    env: Environment,
    config: PPOConfig,
    num_updates: int | Int[Array, ""],
    loss: Loss,
    examine: Callable[..., PyTree],
    *,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
) -> tuple[TrainState, Minibatch, dict[str, PyTree]]:
    """Make an update, whether its numbers stay finite or not.

    **Returns:** `(state, batch, reports)`: the next state; the rollout that it learned from; the
    reports of its gradient steps, `[num_epochs, num_minibatches]`, with the results of `examine` as
    `finite`, see `gradient_step`.
    """
    policy, rollout_state, batch, reward_scaling, extra = collect(state, env, config, on_batch)
    shuffle_key, next_key = jax.random.split(state.key)
    # float32, because the product may exceed 2^31, and the learning rate needs no more digits.
    num_gradient_steps = jnp.asarray(num_updates, jnp.float32) * (
        config.num_epochs * config.num_minibatches
    )
    take_step = partial(
        gradient_step,
        config=config,
        loss=loss,
        num_gradient_steps=num_gradient_steps,
        examine=examine,
        optimizer=optimizer,
    )

    def epoch(learner: Learner, key: PRNGKeyArray) -> tuple[Learner, dict[str, PyTree]]:
        minibatches = shuffle(batch, config.num_minibatches, is_recurrent(policy), key)
        return filter_scan(take_step, learner, minibatches)

    learner = Learner(policy, state.opt_state, state.num_gradient_steps, jnp.asarray(False))
    epoch_keys = jax.random.split(device_key(shuffle_key), config.num_epochs)
    learner, reports = filter_scan(epoch, learner, epoch_keys)
    after = dataclasses.replace(
        state,
        policy=move_statistics(learner.policy, batch.trajectory),
        opt_state=learner.opt_state,
        num_updates=state.num_updates + 1,
        num_gradient_steps=learner.num_gradient_steps,
        rollout_state=rollout_state,
        key=next_key,
        reward_scaling=reward_scaling,
        extra=extra,
    )
    return after, batch, reports


def collect(
    state: TrainState, env: Environment, config: PPOConfig, on_batch: OnBatch | None = None
) -> tuple[Policy, RolloutState, Minibatch, RewardScaling | None, PyTree]:
    """Act for T steps, and compute the advantages.

    **Returns:** the policy that acted, with its annealed rates; the rollout state after the steps;
    the steps `[T, N]` with advantages; and after them the reward scaling, and the hook's extra.
    """
    policy = anneal(state.policy, state.num_updates)
    rollout_state, trajectory = rollout(
        policy, env, state.rollout_state, config.num_steps, key_schedule=config.key_schedule
    )
    trajectory, extra = call_hook(on_batch, policy, trajectory, state.extra, state.key)
    value = trajectory.value if is_recurrent(policy) else replay(policy, trajectory)[2]
    following = next_value(policy, rollout_state, trajectory, value)
    reward, reward_scaling = _scaled_reward(state, trajectory, config)
    one_stream = partial(gae, gamma=config.gamma, gae_lambda=config.gae_lambda)
    advantage, target = jax.vmap(one_stream, in_axes=1, out_axes=1)(
        reward, value, following, trajectory.terminated, trajectory.truncated
    )
    steps = dataclasses.replace(trajectory, final=None)
    batch = Minibatch(
        trajectory=steps,
        value=value,
        advantage=advantage,
        target=target,
        next_observation=next_observation(rollout_state, trajectory),
    )
    return policy, rollout_state, batch, reward_scaling, extra


def _scaled_reward(
    state: TrainState, trajectory: Trajectory, config: PPOConfig
) -> tuple[Float[Array, "T N"], RewardScaling | None]:
    if config.scale_rewards != (state.reward_scaling is not None):
        raise ValueError(
            f"scale_rewards must be {not config.scale_rewards}, as when init_train made this "
            f"state, got {config.scale_rewards}"
        )
    if state.reward_scaling is None:
        return trajectory.reward, None
    done = trajectory.terminated | trajectory.truncated
    scaling, reward = scale_rewards(
        state.reward_scaling, trajectory.reward, done, gamma=config.gamma
    )
    return reward, scaling


def shuffle(
    batch: Minibatch, num_minibatches: int, recurrent: bool, key: PRNGKeyArray
) -> Minibatch:
    """Split a rollout into M minibatches in random order, `[M, B, …]`.

    A recurrent policy is trained through time, so its minibatches are made of whole environments,
    `[M, T, n, …]`.
    """
    if not recurrent:
        batch = map_arrays(lambda x: x[None], flatten_steps(batch))
    order = random_order(key, batch.advantage.shape[1])
    minibatches = order.reshape(num_minibatches, -1)
    take = lambda columns: map_arrays(lambda x: x[:, columns], batch)  # noqa: E731
    shuffled = eqx.filter_vmap(take)(minibatches)
    return shuffled if recurrent else jax.tree.map(lambda x: x.squeeze(1), shuffled)


def flatten_steps(batch: Minibatch) -> Minibatch:
    """Reshape `[T, N, …]` to `[T · N, …]`."""
    return map_arrays(lambda x: x.reshape(-1, *x.shape[2:]), batch)


def on_mesh(state: TrainState, mesh: Mesh, config: PPOConfig) -> TrainState:
    """Put a state where `update` expects it; `ValueError` if these devices cannot share it."""
    check_mesh(mesh, state.policy, config)
    return place(state, mesh, state_specs(state))


def state_specs(state: TrainState) -> PyTree:
    """Where a state's arrays are on a mesh: environments in parts, all else on every device."""

    def environments(state: TrainState) -> list[PyTree]:
        scaling = state.reward_scaling
        return [state.rollout_state, *([] if scaling is None else [scaling.running_return])]

    whole = map_arrays(lambda _: WHOLE, eqx.filter(state, eqx.is_array))
    parts = map_arrays(lambda _: FIRST, eqx.filter(environments(state), eqx.is_array))
    return eqx.tree_at(environments, whole, parts)


def check_mesh(
    mesh: Mesh, policy: Policy, config: PPOConfig, on_batch: OnBatch | None = None
) -> None:
    """Raise `ValueError` if the devices of a mesh cannot share an update."""
    require_divisible(mesh, "num_envs", config.num_envs)
    sizes = {"num_envs": config.num_envs, "num_steps": config.num_steps}
    recurrent, num_minibatches = is_recurrent(policy), config.num_minibatches
    if not are_divided(mesh.size, **sizes, num_minibatches=num_minibatches, recurrent=recurrent):
        samples = config.num_envs * (1 if recurrent else config.num_steps)
        raise ValueError(
            f"each of {mesh.size} devices has {samples // mesh.size} of {samples} samples, which "
            f"num_minibatches = {config.num_minibatches} does not divide; use fewer devices, or "
            f"num_minibatches = {math.gcd(samples // mesh.size, config.num_minibatches)}"
        )
    is_one = lambda node: isinstance(node, WithStatistics)  # noqa: E731
    if any(map(is_one, jax.tree.leaves(policy, is_leaf=is_one))):
        raise ValueError(
            "the statistics of a WithStatistics move by a whole rollout, but each device of a mesh "
            "has only a part of it; use mesh=None"
        )
    if on_batch is not None:
        raise ValueError(
            "on_batch takes a whole rollout, but each device of a mesh has only a part of it; use "
            "mesh=None"
        )


def _check_value(policy: Policy, state: RolloutState) -> None:
    def value_of(observation: PyTree, policy_state: PyTree, key: PRNGKeyArray) -> PyTree:
        return policy(observation, policy_state, key=key)[1]

    first = partial(map_arrays, lambda leaf: leaf[0])
    one = eqx.filter_eval_shape(lambda state: first(clone_keys(state)), state)
    value = eqx.filter_eval_shape(value_of, one.observation, one.policy_state, one.policy_key)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"PPO needs a policy whose value is a float of shape (), got {value}; "
            f"return value[0] if {type(policy).__name__} returns an array of one"
        )
