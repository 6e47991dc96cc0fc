"""Rollouts, replays and evaluations that are wrong, each in one way: what the checks must find."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan

from ._policies import DropoutPolicy

# Rollouts.


def clipped_action(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Stores the action that was sent, beside the log-probability of the one that was sampled."""
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)
    space, action = env.action_space(), trajectory.action
    if hasattr(space, "low"):
        action = jnp.clip(action, space.low, space.high)
    return state, dataclasses.replace(trajectory, action=action)


def shared_key(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """One policy key for all environments."""
    same = lambda key: jnp.broadcast_to(key[:1], key.shape)  # noqa: E731
    where = lambda s: (s.noise_key, s.policy_key)  # noqa: E731
    state = eqx.tree_at(where, state, replace_fn=same)
    return rlscan.rollout(policy, env, state, num_steps)


def records_next_key(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Records the key of the step after."""
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)
    keys = jnp.concatenate([trajectory.policy_key[1:], state.policy_key[None]])
    return state, dataclasses.replace(trajectory, policy_key=keys)


def starts_from_call(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Draws from keys of the call, so that the second rollout does not continue the first."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.key, num_steps)
    state = eqx.tree_at(lambda s: s.key, state, keys)
    return rlscan.rollout(policy, env, state, num_steps)


def state_after_the_step(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Stores the recurrent state after the first step, in place of the one that it began with."""
    before = state
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)

    def after(observation: Any, policy_state: Any, key: Any) -> Any:
        return policy(observation, policy_state, key=key)[2]

    first = jax.vmap(after)(before.observation, before.policy_state, before.policy_key)
    first = jax.tree.map(lambda x: x[None], first)
    return state, dataclasses.replace(trajectory, initial_policy_state=first)


# Replays.


def permuted_keys(policy: Any, trajectory: Any) -> Any:
    return _with_keys(policy, trajectory, jnp.flip(trajectory.policy_key, axis=-1))


def key_off_by_one(policy: Any, trajectory: Any) -> Any:
    return _with_keys(policy, trajectory, jnp.roll(trajectory.policy_key, 1, axis=0))


def fresh_keys(policy: Any, trajectory: Any) -> Any:
    """Other masks than those that acted: the usual way to have dropout in PPO."""
    keys = jax.random.split(rlscan.key(9), trajectory.policy_key.shape)
    return _with_keys(policy, trajectory, keys)


def without_dropout(policy: Any, trajectory: Any) -> Any:
    return rlscan.replay(eqx.nn.inference_mode(policy), trajectory)


def _with_keys(policy: Any, trajectory: Any, keys: Any) -> Any:
    return rlscan.replay(policy, dataclasses.replace(trajectory, policy_key=keys))


def reset_by_own_done(policy: Any, trajectory: Any) -> Any:
    """The state is reset before a step that ends, and not after it."""
    done = trajectory.terminated | trajectory.truncated
    early = jnp.concatenate([done[1:], jnp.zeros_like(done[:1])])
    moved = dataclasses.replace(trajectory, terminated=early, truncated=jnp.zeros_like(done))
    return rlscan.replay(policy, moved)


def never_reset(policy: Any, trajectory: Any) -> Any:
    no = jnp.zeros_like(trajectory.terminated)
    return rlscan.replay(policy, dataclasses.replace(trajectory, terminated=no, truncated=no))


# Bootstraps.


def next_seen(policy: Any, state: Any, trajectory: Any, value: Any) -> Any:
    """The value of what the policy saw next, also where that is another episode."""

    def evaluate(observation: Any, policy_state: Any, key: Any) -> Any:
        return policy(observation, policy_state, key=key)[1]

    last = jax.vmap(evaluate)(state.observation, state.policy_state, state.policy_key)
    return jnp.concatenate([value[1:], last[None]])


# Evaluations.


def evaluates_on_training_key(env: Any, key: Any) -> Any:
    return train_and_evaluate(env, key, key)


def train_and_evaluate(env: Any, train_key: Any, evaluation_key: Any) -> Any:
    """What a policy sees in a rollout to train on, and in one to judge it by."""
    run = eqx.filter_jit(rlscan.rollout)
    seen = []
    for key, num_envs in ((train_key, 4), (evaluation_key, 2)):
        state = rlscan.init_rollout(DropoutPolicy(), env, num_envs=num_envs, key=key)
        seen.append(run(DropoutPolicy(), env, state, 16)[1].observation)
    return tuple(seen)
