"""Implementations with one mistake each, for `DEFECTS`."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._policies import DropoutPolicy

# Advantages.


def truncation_as_termination(
    reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, **numbers: Any
) -> Any:
    done = terminated | truncated
    return rlscan.gae(reward, value, next_value, done, truncated, **numbers)


def trace_not_cut(
    reward: Any,
    value: Any,
    next_value: Any,
    terminated: Any,
    truncated: Any,
    *,
    gamma: Any,
    gae_lambda: Any,
) -> Any:
    """Let the trace run over a truncation into another episode."""
    following = jnp.where(terminated, 0.0, next_value)
    delta, advantage, advantages = reward + gamma * following - value, 0.0, []
    for t in reversed(range(len(reward))):
        advantage = delta[t] + gamma * gae_lambda * (1 - terminated[t]) * advantage
        advantages.append(advantage)
    advantage = jnp.stack(advantages[::-1])
    return advantage, advantage + value


def value_after_the_reset(
    reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, **numbers: Any
) -> Any:
    """Use `value[t + 1]`, which belongs to the next episode after a truncation."""
    following = jnp.append(value[1:], next_value[-1:])
    return rlscan.gae(reward, value, following, terminated, truncated, **numbers)


def both_flags_bootstrap(
    reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, **numbers: Any
) -> Any:
    """Let a truncation win over a termination."""
    ends = terminated & ~truncated, truncated
    return rlscan.gae(reward, value, next_value, *ends, **numbers)


def next_observed(policy: Any, state: Any, trajectory: Any, value: Any) -> Any:
    """Use the value of the policy's next observation, even if it is of another episode."""

    def evaluate(observation: Any, policy_state: Any, key: Any) -> Any:
        return policy(observation, policy_state, key=key)[1]

    last = jax.vmap(evaluate)(state.observation, state.policy_state, state.policy_key)
    return jnp.concatenate([value[1:], last[None]])


# Rollouts.


def clipped_action(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Store the action that was sent with the log-probability of the one that was sampled."""
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)
    space, action = env.action_space(), trajectory.action
    if hasattr(space, "low"):
        action = jnp.clip(action, space.low, space.high)
    return state, dataclasses.replace(trajectory, action=action)


def shared_key(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Give all environments one policy key."""
    same = lambda key: jnp.broadcast_to(key[:1], key.shape)  # noqa: E731
    where = lambda s: (s.noise_key, s.policy_key)  # noqa: E731
    state = eqx.tree_at(where, state, replace_fn=same)
    return rlscan.rollout(policy, env, state, num_steps)


def records_next_key(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)
    keys = jnp.concatenate([trajectory.policy_key[1:], state.policy_key[None]])
    return state, dataclasses.replace(trajectory, policy_key=keys)


def starts_from_call(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Derive keys from the call, so that the second rollout does not continue the first."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.key, num_steps)
    state = eqx.tree_at(lambda s: s.key, state, keys)
    return rlscan.rollout(policy, env, state, num_steps)


def state_after_the_step(policy: Any, env: Any, state: Any, num_steps: int) -> Any:
    """Store the recurrent state after the first step instead of the one before it."""
    before = state
    state, trajectory = rlscan.rollout(policy, env, state, num_steps)

    def after(observation: Any, policy_state: Any, key: Any) -> Any:
        return policy(observation, policy_state, key=key)[2]

    first = jax.vmap(after)(before.observation, before.policy_state, before.policy_key)
    first = jax.tree.map(lambda x: x[None], first)
    return state, dataclasses.replace(trajectory, initial_policy_state=first)


def evaluates_with_training_key(env: Any, key: Any) -> Any:
    run, observations = eqx.filter_jit(rlscan.rollout), []
    for num_envs in (4, 2):  # training, evaluation
        state = rlscan.init_rollout(DropoutPolicy(), env, num_envs=num_envs, key=key)
        observations.append(run(DropoutPolicy(), env, state, 16)[1].observation)
    return tuple(observations)


# Replays.


def permuted_keys(policy: Any, trajectory: Any) -> Any:
    return _with_keys(policy, trajectory, jnp.flip(trajectory.policy_key, axis=-1))


def key_off_by_one(policy: Any, trajectory: Any) -> Any:
    return _with_keys(policy, trajectory, jnp.roll(trajectory.policy_key, 1, axis=0))


def fresh_keys(policy: Any, trajectory: Any) -> Any:
    """Draw new masks for the update, the most common form of dropout in PPO."""
    keys = jax.random.split(rlscan.key(9), trajectory.policy_key.shape)
    return _with_keys(policy, trajectory, keys)


def without_dropout(policy: Any, trajectory: Any) -> Any:
    return rlscan.replay(eqx.nn.inference_mode(policy), trajectory)


def _with_keys(policy: Any, trajectory: Any, keys: Any) -> Any:
    return rlscan.replay(policy, dataclasses.replace(trajectory, policy_key=keys))


def reset_by_own_done(policy: Any, trajectory: Any) -> Any:
    """Reset the state before a step that ends an episode, and not after it."""
    done = trajectory.terminated | trajectory.truncated
    early = jnp.concatenate([done[1:], jnp.zeros_like(done[:1])])
    moved = dataclasses.replace(trajectory, terminated=early, truncated=jnp.zeros_like(done))
    return rlscan.replay(policy, moved)


def never_reset(policy: Any, trajectory: Any) -> Any:
    no = jnp.zeros_like(trajectory.terminated)
    return rlscan.replay(policy, dataclasses.replace(trajectory, terminated=no, truncated=no))


# Updates.


def smaller_value_loss(value: Any, old_value: Any, target: Any, clip_range: Any) -> Any:
    near = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return 0.5 * jnp.minimum((value - target) ** 2, (near - target) ** 2).mean()


def clip_each_element(grads: Any, max_norm: Any) -> Any:
    return jax.tree.map(lambda g: jnp.clip(g, -max_norm, max_norm), grads)


def rate_by_epochs(
    learning_rate: float, num_updates: int, num_epochs: int, num_minibatches: int
) -> Any:
    """Anneal over the number of epochs, but count minibatches."""
    num_steps = num_updates * num_epochs
    return lambda k: learning_rate * max(0.0, 1 - k / num_steps)


def minibatches_across_time(batch: Any, num_minibatches: int, key: Any) -> Any:
    """Shuffle whole environments, but reshape so that minibatches are cut through time."""
    num_envs = jax.tree.leaves(batch)[0].shape[1]
    order = jax.random.permutation(key, num_envs)

    def split(x: Any) -> Any:
        shape = num_minibatches, x.shape[0], num_envs // num_minibatches
        return x[:, order].reshape(*shape, *x.shape[2:])

    return jax.tree.map(split, batch)


def minibatches_torn_apart(batch: Any, num_minibatches: int, key: Any) -> Any:
    """Flatten leaves in different orders, so that a row mixes different steps."""

    def split(x: Any) -> Any:
        flat = x.reshape(-1) if x.ndim == 2 else jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
        rows = flat[jax.random.permutation(key, len(flat))]
        return rows.reshape(num_minibatches, -1, *x.shape[2:])

    return jax.tree.map(split, batch)


# Statistics.


def reward_leaks(reward: Any, terminated: Any, truncated: Any, *, gamma: float) -> Any:
    """R ← γ R (1 − done) + r: the reset comes one step early, and the last reward leaks."""
    reward, goes_on = np.asarray(reward, float), ~np.asarray(terminated | truncated)
    returns, history, scaled = np.zeros(reward.shape[1]), [], []
    for r, on in zip(reward, goes_on, strict=True):
        returns = gamma * returns * on + r
        history.append(returns)
        scaled.append(r / np.sqrt(np.var(history) + 1e-8))
    return np.stack(scaled)


def log_ratios_with_statistics(acting: str, learning: str, key: Any) -> Any:
    """First log-ratios `[U, T]` of a linear policy with normalised observations.

    `acting` and `learning` choose the statistics: those of the observations `"before"` the rollout,
    up to each `"step"`, or up to `"after"` the rollout.
    """
    num_updates, num_steps, num_actions = 3, 8, 3
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    observation = 3 + 2 * rng.normal(size=(num_updates + 1, num_steps, 2))
    weight, ratios = 2 * rng.normal(size=(num_actions, 2)), []
    for u in range(1, num_updates + 1):
        before, now = observation[:u].reshape(-1, 2), observation[u]
        action = rng.integers(num_actions, size=num_steps)

        def log_prob(when: str, before: Any = before, now: Any = now, action: Any = action) -> Any:
            lengths = {"before": 0, "after": num_steps}
            log_probs = []
            for t in range(num_steps):
                known = np.concatenate([before, now[: lengths.get(when, t + 1)]])
                logits = weight @ ((now[t] - known.mean(axis=0)) / known.std(axis=0))
                log_probs.append(logits[action[t]] - np.log(np.exp(logits).sum()))
            return np.stack(log_probs)

        ratios.append(log_prob(learning) - log_prob(acting))
    return np.stack(ratios)
