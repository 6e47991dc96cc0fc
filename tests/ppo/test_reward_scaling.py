"""Scaled rewards against a float64 loop, and against that loop with planted defects."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan.ppo._update import collect

T, N, GAMMA, EPSILON = 12, 3, 0.9, 1e-8
CONFIG = rlscan.ppo.PPOConfig(num_envs=N, num_steps=T, num_minibatches=2, scale_rewards=True)

DEFECTS = ("reset before the division", "leak into the next episode", "mean taken off", "no reset")


def reference(rollouts: list, defect: str | None = None) -> tuple[list, np.ndarray]:
    """Compute `(scaled, R)` of rollouts of (reward, done) `[T, N]` step by step in float64."""
    running, returns, scaled = np.zeros(N), [], []
    for reward, done in rollouts:
        for t in range(len(reward)):
            r, is_over = reward[t].astype(np.float64), done[t]
            if defect == "reset before the division":
                running = np.where(is_over, 0, GAMMA * running + r)
                returns.append(running)
                continue
            running = GAMMA * running + r
            returns.append(running)
            if defect == "leak into the next episode":  # purejaxrl's γ R (1 − done) + r, late
                running = np.where(is_over, r, running)
            elif defect != "no reset":
                running = np.where(is_over, 0, running)
        variance = np.var(np.concatenate(returns))
        mean = reward.mean() if defect == "mean taken off" else 0
        scaled.append((reward - mean) / np.sqrt(variance + EPSILON))
    return scaled, running


def some_rollouts(num: int = 3, scale: float = 20.0) -> list:
    rng = np.random.default_rng(0)
    return [
        (scale * rng.normal(1, 1, (T, N)).astype(np.float32), rng.random((T, N)) < 0.3)
        for _ in range(num)
    ]


@jax.jit
def scale(scaling: Any, reward: Any, done: Any, gamma: Any = GAMMA) -> Any:
    return rlscan.ppo.scale_rewards(scaling, reward, done, gamma=gamma)


def test_rewards_equal_those_of_a_loop_across_rollouts() -> None:
    rollouts = some_rollouts()
    wanted, running = reference(rollouts)
    scaling = rlscan.ppo.init_reward_scaling(N)
    for (reward, done), by_hand in zip(rollouts, wanted, strict=True):
        scaling, scaled = scale(scaling, jnp.asarray(reward), jnp.asarray(done))
        np.testing.assert_allclose(scaled, by_hand, rtol=1e-5)
    np.testing.assert_allclose(scaling.running_return, running, rtol=1e-5)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_other_libraries_would_be_found(defect: str) -> None:
    rollouts = some_rollouts()
    right, wrong = reference(rollouts)[0], reference(rollouts, defect)[0]
    assert all(np.abs(a / b - 1).max() > 0.01 for a, b in zip(right, wrong, strict=True))


def test_it_does_not_matter_where_a_rollout_ends() -> None:
    (first, second), start = some_rollouts(2), rlscan.ppo.init_reward_scaling(N)
    both = [jnp.concatenate([a, b]) for a, b in zip(first, second, strict=True)]
    whole, _ = scale(start, *both)
    parts, _ = scale(scale(start, *map(jnp.asarray, first))[0], *map(jnp.asarray, second))
    np.testing.assert_allclose(parts.running_return, whole.running_return, rtol=1e-5)
    a, b = parts.moments.value, whole.moments.value
    assert a.count.value == b.count.value == 2 * T * N
    np.testing.assert_allclose(a.mean.value, b.mean.value, rtol=1e-5)
    np.testing.assert_allclose(a.variance, b.variance, rtol=1e-5)


def test_rewards_in_other_units_are_scaled_alike() -> None:
    (reward, done), *_ = some_rollouts()
    start = rlscan.ppo.init_reward_scaling(N)
    _, once = scale(start, jnp.asarray(reward), jnp.asarray(done))
    _, often = scale(start, 1000 * jnp.asarray(reward), jnp.asarray(done))
    np.testing.assert_allclose(often, once, rtol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 3.0])
def test_constant_rewards_are_unchanged(reward: float) -> None:
    """All episodes have one step and the same reward."""
    rewards = jnp.full((T, N), reward)
    _, scaled = scale(rlscan.ppo.init_reward_scaling(N), rewards, jnp.ones((T, N), bool))
    np.testing.assert_array_equal(scaled, rewards)


def test_discounts_are_mapped_over() -> None:
    (reward, done), *_ = some_rollouts()
    reward, done, start = jnp.asarray(reward), jnp.asarray(done), rlscan.ppo.init_reward_scaling(N)
    gammas = jnp.array([0.5, 0.99])
    mapped, scaled = jax.vmap(partial(scale, start, reward, done))(gammas)
    for i, gamma in enumerate(gammas):
        single, wanted = scale(start, reward, done, gamma)
        np.testing.assert_allclose(scaled[i], wanted, rtol=1e-6)
        np.testing.assert_allclose(mapped.running_return[i], single.running_return, rtol=1e-6)


# In training.


@pytest.mark.slow
def test_advantages_use_scaled_rewards_and_metrics_the_original_ones() -> None:
    """If λ = 0, a target is r + γ V′, so two targets differ only by their rewards."""
    env, policy = probes.Wander(), probes.dropout_policy()
    scaled_config = dataclasses.replace(CONFIG, gae_lambda=0.0)
    plain_config = dataclasses.replace(scaled_config, scale_rewards=False)

    def one_update(config: Any) -> tuple:
        state = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(0))

        @eqx.filter_jit
        def both(state: Any) -> tuple:
            numbers = config.as_arrays()
            batch = collect(state, env, numbers)[2]
            return batch, rlscan.ppo.update(state, env, numbers, num_updates=1)

        return both(state)

    batch, (after, metrics) = one_update(scaled_config)
    plain, (plain_after, plain_metrics) = one_update(plain_config)
    reward = batch.trajectory.reward
    np.testing.assert_array_equal(reward, plain.trajectory.reward)

    done = batch.trajectory.terminated | batch.trajectory.truncated
    start = rlscan.ppo.init_reward_scaling(N)
    scaling, scaled = scale(start, reward, done, scaled_config.gamma)
    np.testing.assert_allclose(batch.target - plain.target, scaled - reward, atol=1e-4)
    assert np.abs(scaled - reward).max() > 0.1

    assert metrics["num_episodes"] > 0
    assert metrics["episode_return"] == plain_metrics["episode_return"]
    assert plain_after.reward_scaling is None
    running = after.reward_scaling.running_return
    np.testing.assert_allclose(running, scaling.running_return, rtol=1e-5)
    np.testing.assert_array_equal(running == 0, done[-1])


@pytest.mark.slow
def test_a_state_made_without_scaling_is_refused() -> None:
    env, policy = probes.Wander(), probes.dropout_policy()
    state = rlscan.ppo.init_train(policy, env, CONFIG, key=rlscan.key(0))
    without = dataclasses.replace(state, reward_scaling=None)
    for made, used in [(state, False), (without, True)]:
        config = dataclasses.replace(CONFIG, scale_rewards=used)
        with pytest.raises(ValueError, match=f"scale_rewards must be {not used}.*got {used}"):
            rlscan.ppo.update(made, env, config, num_updates=1)
