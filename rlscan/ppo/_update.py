"""PPO over rollouts that are replayed exactly.

One update is: `rollout` acts → `replay` gives values → `gae` gives advantages → minibatches in
shuffled order take gradients of the loss, which replays them.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._core.mesh import (
    AXIS,
    FIRST,
    WHOLE,
    are_divided,
    gather,
    own_key,
    place,
    require_divisible,
    sharded,
)
from .._core.scan import filter_scan
from .._core.tree import map_arrays, unused, where
from .._core.types import Environment, Policy, PyTree
from .._rollout.gae import explained_variance, gae
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
from ._gradient_step import Learner, gradient_step, init_optimiser
from ._losses import Loss, Minibatch, ppo_loss
from ._metrics import Metrics, episode_metrics, flagged, gradient_metrics
from ._minibatches import random_order
from ._reward_scaling import RewardScaling, init_reward_scaling, scale_rewards


class TrainState(eqx.Module):
    """All that changes during training."""

    policy: Policy
    opt_state: PyTree
    num_updates: Int[Array, ""]  # made so far; annealed layers follow them
    num_gradient_steps: Int[Array, ""]  # applied so far; the learning rate is annealed by them
    rollout_state: RolloutState
    key: PRNGKeyArray  # for the shuffles; split at every update
    divergence: Divergence  # once there was one, all else stays as it was before that update
    reward_scaling: RewardScaling | None = None  # if the config has `scale_rewards`


def init_train(
    policy: Policy,
    env: Environment,
    config: PPOConfig,
    *,
    key: KeyLike,
    mesh: Mesh | None = None,
) -> TrainState:
    """The state before the first update.

    **Arguments:** as for `rlscan.train`.

    **Raises:** as `rlscan.check_policy`; `ValueError` for a setting that cannot be, a policy
    whose value is no scalar, or a key that cannot be replayed.
    """
    rollout_key, shuffle_key = jax.random.split(as_key(key))
    check_config(config, recurrent=is_recurrent(policy))
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
        # Compiled as one program, as its ten small ones take a tenth of a second to compile.
        opt_state=eqx.filter_jit(init_optimiser)(config, partition_trainable(policy)[0]),
        num_updates=jnp.zeros((), jnp.int32),
        num_gradient_steps=jnp.zeros((), jnp.int32),
        rollout_state=rollout_state,
        key=shuffle_key,
        divergence=no_divergence(),
        reward_scaling=init_reward_scaling(config.num_envs) if config.scale_rewards else None,
    )
    return state if mesh is None else over_devices(state, mesh, config)


def update(
    state: TrainState,
    env: Environment,
    config: PPOConfig,
    *,
    num_updates: int | Int[Array, ""],
    loss: Loss = ppo_loss,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: T steps in N environments, then the epochs over them. Pure; jit it.

    **Arguments:**

    - `state`: from `init_train` or the last update.
    - `env`, `config`, `loss`: as for `train`.
    - `num_updates`: of the whole run; the learning rate is annealed over them.
    - `mesh`: devices to split the environments over, from `rlscan.make_mesh`. Each acts in its own,
        shuffles its own steps, and gives its part to each minibatch; gradients and metrics are the
        means of theirs. What is normalised over a minibatch is so over each part.

    **Returns:** `(state, metrics)`; `rlscan.METRICS` says what each metric is.

    If the loss, the gradient or a parameter is not finite after any gradient step, or already what
    the rollout says to learn, the update is taken back as a whole, bit by bit: environments, keys
    and counts, too. `state.divergence` says where it was; from then on an update changes nothing.
    A minibatch at which `target_kl` ends the update takes no step, so it is not looked at.
    """
    if mesh is None:
        return _update(env, config, num_updates, loss, None, state)
    check_mesh(mesh, state.policy, config)
    on_one = partial(_update, env, config, num_updates, loss, AXIS)
    return sharded(on_one, mesh, (spread(state),), (spread(state), WHOLE))(state)


def _update(
    env: Environment,
    config: PPOConfig,
    num_updates: int | Int[Array, ""],
    loss: Loss,
    axis: str | None,
    state: TrainState,
) -> tuple[TrainState, Metrics]:
    """`update` on one device, which is one of several if there is an axis over them."""
    after, batch, steps = attempt(env, config, num_updates, loss, axis, is_step_finite, state)
    finite = steps.pop("finite") | ~steps["applied"]
    metrics = {
        **episode_metrics(batch.trajectory, axis),
        **gradient_metrics(steps, axis),
        "explained_variance": explained_variance(*gather(axis, (batch.value, batch.target))),
    }
    divergence = first_divergence(
        state.divergence,
        state.num_updates + 1,
        # A sum is finite where both are: one pass over what an update learns from.
        rollout=all_finite(batch.target + batch.trajectory.log_prob, axis),
        steps=finite,
        statistics=every(stay_finite(*(partition_trainable(s.policy)[1] for s in (state, after)))),
    )
    was_frozen, is_frozen = state.divergence.update > 0, divergence.update > 0
    frozen = dataclasses.replace(state, divergence=divergence)
    return where(is_frozen, frozen, after), flagged(metrics, was_frozen, is_frozen)


def attempt(
    env: Environment,
    config: PPOConfig,
    num_updates: int | Int[Array, ""],
    loss: Loss,
    axis: str | None,
    judge: Callable[..., PyTree],
    state: TrainState,
) -> tuple[TrainState, Minibatch, dict[str, PyTree]]:
    """What an update leads to, finite or not; the rollout that it learned from; and the reports of
    its gradient steps, `[num_epochs, num_minibatches]`, with what `judge` says of each as `finite`.
    """
    policy, rollout_state, batch, reward_scaling = act_and_judge(state, env, config, axis)
    shuffle_key, next_key = jax.random.split(state.key)
    # In float32, as the product may well be more than 2^31; the learning rate needs no more digits.
    num_gradient_steps = jnp.asarray(num_updates, jnp.float32) * (
        config.num_epochs * config.num_minibatches
    )
    take_step = partial(
        gradient_step,
        config=config,
        loss=loss,
        num_gradient_steps=num_gradient_steps,
        axis=axis,
        judge=judge,
    )

    def epoch(learner: Learner, key: PRNGKeyArray) -> tuple[Learner, dict[str, PyTree]]:
        minibatches = _shuffle(batch, config.num_minibatches, is_recurrent(policy), key)
        return filter_scan(take_step, learner, minibatches)

    learner = Learner(policy, state.opt_state, state.num_gradient_steps, jnp.asarray(False))
    epoch_keys = jax.random.split(own_key(axis, shuffle_key), config.num_epochs)
    learner, steps = filter_scan(epoch, learner, epoch_keys)
    after = TrainState(
        policy=move_statistics(learner.policy, batch.trajectory, axis),
        opt_state=learner.opt_state,
        num_updates=state.num_updates + 1,
        num_gradient_steps=learner.num_gradient_steps,
        rollout_state=rollout_state,
        key=next_key,
        divergence=state.divergence,
        reward_scaling=reward_scaling,
    )
    return after, batch, steps


def over_devices(state: TrainState, mesh: Mesh, config: PPOConfig) -> TrainState:
    """The state where `update` wants it; `ValueError` if it cannot be made on these devices."""
    check_mesh(mesh, state.policy, config)
    return place(state, mesh, spread(state))


def spread(state: TrainState) -> PyTree:
    """What of a state is where: the environments in parts, all else whole on each device."""

    def of_environments(state: TrainState) -> list[PyTree]:
        scaling = state.reward_scaling
        return [state.rollout_state, *([] if scaling is None else [scaling.running_return])]

    whole = map_arrays(lambda _: WHOLE, eqx.filter(state, eqx.is_array))
    parts = map_arrays(lambda _: FIRST, eqx.filter(of_environments(state), eqx.is_array))
    return eqx.tree_at(of_environments, whole, parts)


def check_mesh(mesh: Mesh, policy: Policy, config: PPOConfig) -> None:
    """Raises `ValueError` if an update cannot be made on the devices of a mesh."""
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
            "the statistics of a WithStatistics move by a whole rollout, of which each device of "
            "a mesh has a part; use mesh=None"
        )


def act_and_judge(
    state: TrainState, env: Environment, config: PPOConfig, axis: str | None = None
) -> tuple[Policy, RolloutState, Minibatch, RewardScaling | None]:
    """The policy of an update, where its rollout led, and the rollout `[T, N]` with advantages; and
    what its rewards were scaled by, which the trajectory's are not."""
    policy = anneal(state.policy, state.num_updates)
    rollout_state, trajectory = rollout(
        policy, env, state.rollout_state, config.num_steps, key_schedule=config.key_schedule
    )
    value = trajectory.value if is_recurrent(policy) else replay(policy, trajectory)[2]
    following = next_value(policy, rollout_state, trajectory, value)
    reward, reward_scaling = _scaled_reward(state, trajectory, config, axis)
    one_stream = partial(gae, gamma=config.gamma, gae_lambda=config.gae_lambda)
    advantage, target = jax.vmap(one_stream, in_axes=1, out_axes=1)(
        reward, value, following, trajectory.terminated, trajectory.truncated
    )
    steps = dataclasses.replace(trajectory, final=None)
    batch = Minibatch(trajectory=steps, value=value, advantage=advantage, target=target)
    return policy, rollout_state, batch, reward_scaling


def _scaled_reward(
    state: TrainState, trajectory: Trajectory, config: PPOConfig, axis: str | None
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
        state.reward_scaling, trajectory.reward, done, gamma=config.gamma, axis=axis
    )
    return reward, scaling


def _shuffle(
    batch: Minibatch, num_minibatches: int, recurrent: bool, key: PRNGKeyArray
) -> Minibatch:
    """M minibatches in a random order, of steps: `[M, B, …]`; of a recurrent policy `[M, T, n, …]`.

    A recurrent policy is trained through time, so its minibatches are taken over environments.
    """
    if not recurrent:
        batch = map_arrays(lambda x: x[None], flat(batch))
    order = random_order(key, batch.advantage.shape[1])
    minibatches = order.reshape(num_minibatches, -1)
    take = lambda columns: map_arrays(lambda x: x[:, columns], batch)  # noqa: E731
    shuffled = eqx.filter_vmap(take)(minibatches)
    return shuffled if recurrent else jax.tree.map(lambda x: x.squeeze(1), shuffled)


def flat(batch: Minibatch) -> Minibatch:
    """`[T · N, …]`, of a feed-forward policy."""
    return map_arrays(lambda x: x.reshape(-1, *x.shape[2:]), batch)


def _check_value(policy: Policy, state: RolloutState) -> None:
    def value_of(observation: PyTree, policy_state: PyTree, key: PRNGKeyArray) -> PyTree:
        return policy(observation, policy_state, key=key)[1]

    first = partial(map_arrays, lambda leaf: leaf[0])
    one = eqx.filter_eval_shape(lambda state: first(unused(state)), state)
    value = eqx.filter_eval_shape(value_of, one.observation, one.policy_state, one.policy_key)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"PPO needs a policy whose value is a float of shape (), got {value}; "
            f"return value[0] where {type(policy).__name__} returns an array of one"
        )
