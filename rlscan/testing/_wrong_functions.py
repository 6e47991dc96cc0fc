"""Parts of an update that are wrong, each in one way: what the checks must find."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlscan

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
    """The trace runs on over a truncation, into another episode."""
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
    """`value[t + 1]`, which after a truncation is that of the next episode."""
    following = jnp.append(value[1:], next_value[-1:])
    return rlscan.gae(reward, value, following, terminated, truncated, **numbers)


def both_flags_bootstrap(
    reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, **numbers: Any
) -> Any:
    """A truncation wins over a termination."""
    ends = terminated & ~truncated, truncated
    return rlscan.gae(reward, value, next_value, *ends, **numbers)


# The gradient step.


def smaller_value_loss(value: Any, old_value: Any, target: Any, clip_range: Any) -> Any:
    near = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return 0.5 * jnp.minimum((value - target) ** 2, (near - target) ** 2).mean()


def clip_each_element(grads: Any, max_norm: Any) -> Any:
    return jax.tree.map(lambda g: jnp.clip(g, -max_norm, max_norm), grads)


def rate_by_epochs(
    learning_rate: float, num_updates: int, num_epochs: int, num_minibatches: int
) -> Any:
    """Falls over as many steps as there are epochs, and is asked at every minibatch."""
    num_steps = num_updates * num_epochs
    return lambda k: learning_rate * max(0.0, 1 - k / num_steps)


def minibatches_across_time(batch: Any, num_minibatches: int, key: Any) -> Any:
    """Whole columns are shuffled, but a reshape cuts them elsewhere than between environments."""
    num_envs = jax.tree.leaves(batch)[0].shape[1]
    order = jax.random.permutation(key, num_envs)

    def split(x: Any) -> Any:
        shape = num_minibatches, x.shape[0], num_envs // num_minibatches
        return x[:, order].reshape(*shape, *x.shape[2:])

    return jax.tree.map(split, batch)


def minibatches_torn_apart(batch: Any, num_minibatches: int, key: Any) -> Any:
    """Leaves are flattened in different orders, so that rows are no longer those of one step."""

    def split(x: Any) -> Any:
        flat = x.reshape(-1) if x.ndim == 2 else jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
        rows = flat[jax.random.permutation(key, len(flat))]
        return rows.reshape(num_minibatches, -1, *x.shape[2:])

    return jax.tree.map(split, batch)


# Statistics.


def reward_leaks(reward: Any, terminated: Any, truncated: Any, *, gamma: float) -> Any:
    """R ← γ R (1 − done) + r: the done comes a step early, and the last reward leaks."""
    return _scaled(reward, terminated | truncated, gamma, early=True)


def scaled_reward(reward: Any, terminated: Any, truncated: Any, *, gamma: float) -> Any:
    """As it should be, with the deviation of all steps up to each."""
    return _scaled(reward, terminated | truncated, gamma, early=False)


def _scaled(reward: Any, done: Any, gamma: float, *, early: bool) -> Any:
    reward, going = np.asarray(reward, float), 1 - np.asarray(done, float)
    returns, seen, scaled = np.zeros(reward.shape[1]), [], []
    for r, goes_on in zip(reward, going, strict=True):
        returns = gamma * returns * (goes_on if early else 1) + r
        seen.append(returns)
        scaled.append(r / np.sqrt(np.var(seen) + 1e-8))
        returns = returns if early else returns * goes_on
    return np.stack(scaled)


def log_ratios_with_statistics(acting: str, learning: str, key: Any) -> Any:
    """First log-ratios `[U, T]` of a linear policy that reads normalised observations.

    `acting` and `learning` say with whose statistics: of the steps `"before"` the rollout, of all
    those up to each `"step"`, or of those up to `"after"` the rollout.
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
                seen = np.concatenate([before, now[: lengths.get(when, t + 1)]])
                logits = weight @ ((now[t] - seen.mean(axis=0)) / seen.std(axis=0))
                log_probs.append(logits[action[t]] - np.log(np.exp(logits).sum()))
            return np.stack(log_probs)

        ratios.append(log_prob(learning) - log_prob(acting))
    return np.stack(ratios)
