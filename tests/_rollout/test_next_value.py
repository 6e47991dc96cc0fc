"""V of what followed each step, by hand; only truncated steps are evaluated."""

import dataclasses
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan

N, T = 4, 21

SELDOM, EVERY_STEP, NEVER = 7, 1, 10**6  # steps after which an episode is cut

jit_next_value = eqx.filter_jit(rlscan.next_value)


def unlimited(limit: int) -> probes.Wander:
    """Declare no time limit but truncate episodes, so that each of T steps has a slot."""
    return probes.Wander(limit=limit, time_limit=None)


@eqx.filter_jit
def roll(policy: Any, env: Any, key: Any = None) -> Any:
    """Roll out T steps of N environments: `(first, after, trajectory)`."""
    key = rlscan.key(0) if key is None else key
    first = rlscan.init_rollout(policy, env, num_envs=N, key=key)
    return first, *rlscan.rollout(policy, env, first, T)


@pytest.mark.parametrize("time_limit", [7, None])
def test_next_value_against_a_python_loop(time_limit):
    """V is that of the final observation if the step was truncated, else of the next one."""
    env, policy = probes.Wander(time_limit=time_limit), probes.Recurrent()
    first, after, trajectory = roll(policy, env)
    following = jit_next_value(policy, after, trajectory, trajectory.value)
    call = eqx.filter_jit(lambda *x: policy(*x[:2], key=x[2])[1:])
    env_step = eqx.filter_jit(env.step)
    for n in range(N):
        one = jax.tree.map(lambda leaf, n=n: leaf[n], first)
        stream, env_state, policy_state = one.key, one.env_state, one.policy_state
        observation = one.observation
        for t in range(T):
            # Replayed, so that not even the final observation is taken from the trajectory.
            stream, _, env_key, _ = jax.random.split(stream, 4)
            policy_key = trajectory.policy_key[t, n]
            _, policy_state = call(observation, policy_state, policy_key)
            observation, env_state, _, terminated, truncated, info = env_step(
                env_key, env_state, trajectory.action[t, n]
            )
            if terminated:
                assert not truncated or np.isfinite(following[t, n])
            elif truncated:
                expected, _ = call(info["final_observation"], policy_state, policy_key)
                assert following[t, n] == pytest.approx(float(expected), abs=1e-5)
                reset, _ = call(observation, policy.initial_state(), after.policy_key[n])
                assert following[t, n] != pytest.approx(float(reset), abs=1e-3)
            else:
                next_key = trajectory.policy_key[t + 1, n] if t + 1 < T else after.policy_key[n]
                expected, _ = call(observation, policy_state, next_key)
                assert following[t, n] == pytest.approx(float(expected), abs=1e-5)
            if terminated or truncated:
                policy_state = policy.initial_state()


class Sum(eqx.Module):
    """A policy whose value is `scale` times the sum of its observation."""

    scale: Any
    when_asked: Any = None  # called once for each value when the program runs

    def initial_state(self) -> tuple:
        return ()

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        if self.when_asked is not None:
            jax.debug.callback(self.when_asked, observation)
        logits = jax.random.normal(key, (3,))
        return distrax.Categorical(logits=logits), self.scale * observation.sum(), state


def num_evaluated(limit: int) -> int:
    """Count the values computed, except those of the last observations."""
    policy, calls = Sum(jnp.ones(())), []
    _, after, trajectory = roll(policy, unlimited(limit))
    policy = dataclasses.replace(policy, when_asked=lambda _: calls.append(1))
    jit_next_value(policy, after, trajectory, trajectory.observation.sum(-1)).block_until_ready()
    jax.effects_barrier()
    return len(calls) - N


@pytest.mark.slow
def test_only_truncated_steps_are_evaluated():
    """Each batch takes two slots per environment, because there are 21 and at most 16 batches."""
    _, _, trajectory = roll(Sum(jnp.ones(())), unlimited(SELDOM))
    cut = (trajectory.truncated & ~trajectory.terminated).sum(axis=0)
    assert 2 < cut.max() < T / 4
    assert num_evaluated(SELDOM) == -(-cut.max() // 2) * 2 * N
    assert num_evaluated(NEVER) == 0


def expected(policy: Any, after: Any, trajectory: Any) -> np.ndarray:
    """Compute the next values of `Sum` by hand."""
    sums = np.asarray(trajectory.observation.sum(-1))
    following = np.concatenate([sums[1:], np.asarray(after.observation.sum(-1))[None]])
    for k, n in np.ndindex(T, N):
        if trajectory.final.step[k, n] < T:
            following[k, n] = trajectory.final.observation[k, n].sum()
    return float(policy.scale) * following


@pytest.mark.slow
@pytest.mark.parametrize("limit", [SELDOM, EVERY_STEP, NEVER])
def test_any_number_of_truncations(limit):
    policy = Sum(jnp.asarray(2.0))
    _, after, trajectory = roll(policy, unlimited(limit))
    value = 2 * trajectory.observation.sum(-1)
    following = jit_next_value(policy, after, trajectory, value)
    wanted = expected(policy, after, trajectory)
    held = np.asarray(trajectory.truncated & ~trajectory.terminated)
    assert {SELDOM: 0.05 < held.mean() < 0.3, EVERY_STEP: held.mean() > 0.6, NEVER: not held.any()}[
        limit
    ]
    np.testing.assert_allclose(following, wanted, rtol=1e-5, atol=1e-6)


class Until(eqx.Module):
    """An environment truncated at every step if `limit`, which may be mapped, is `EVERY_STEP`."""

    limit: Any
    env: probes.Wander = probes.Wander(limit=NEVER, time_limit=None)

    def reset(self, key: Any) -> tuple:
        return self.env.reset(key)

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        observation, state, reward, terminated, _, info = self.env.step(key, state, action)
        truncated = jnp.asarray(self.limit == EVERY_STEP)
        return observation, state, reward, terminated, truncated, info

    def observation_space(self) -> Any:
        return self.env.observation_space()

    def action_space(self) -> Any:
        return self.env.action_space()


@pytest.mark.slow
def test_seeds_side_by_side_equal_single_ones():
    """One seed is truncated at every step, the other never."""
    policy = Sum(jnp.asarray(2.0))
    limits = jnp.asarray([EVERY_STEP, NEVER])

    def one(limit: Any) -> Any:
        _, after, trajectory = roll(policy, Until(limit))
        value = 2 * trajectory.observation.sum(-1)
        return rlscan.next_value(policy, after, trajectory, value), after, trajectory

    following, after, trajectory = eqx.filter_jit(eqx.filter_vmap(one))(limits)
    assert trajectory.truncated[0].all() and not trajectory.truncated[1].any()
    for i in range(2):
        alone = jax.tree.map(lambda x, i=i: x[i], (after, trajectory))
        np.testing.assert_allclose(following[i], expected(policy, *alone), rtol=1e-5, atol=1e-6)


def weighted(policy: Any, after: Any, trajectory: Any, value: Any) -> Any:
    weight = jnp.arange(T * N, dtype=jnp.float32).reshape(T, N) / T / N
    return (weight * rlscan.next_value(policy, after, trajectory, value)).sum()


@pytest.mark.slow
def test_it_has_a_reverse_mode_gradient():
    """A loop with a traced number of iterations has none by itself."""
    policy = Sum(jnp.asarray(2.0))
    _, after, trajectory = roll(policy, unlimited(SELDOM))
    value = trajectory.observation.sum(-1)
    slope = eqx.filter_jit(eqx.filter_grad(weighted))(policy, after, trajectory, value).scale
    by_hand = expected(dataclasses.replace(policy, scale=jnp.ones(())), after, trajectory)
    is_final = np.array(trajectory.truncated & ~trajectory.terminated)
    is_final[-1] = True  # the last observations count too
    weight = np.arange(T * N).reshape(T, N) / T / N
    assert float(slope) == pytest.approx((weight * by_hand)[is_final].sum(), rel=1e-4)
    assert abs(slope) > 0.05

    of_value = eqx.filter_grad(lambda value: weighted(policy, after, trajectory, value))(value)
    kept = np.where(is_final[:-1], 0, weight[:-1])
    np.testing.assert_allclose(of_value, np.concatenate([np.zeros((1, N)), kept]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [SELDOM, NEVER])
def test_a_value_may_be_any_pytree(limit):
    class Several(Sum):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            distribution, value, state = super().__call__(observation, state, key=key)
            return distribution, {"q": jnp.stack([value, -value]), "none": None}, state

    policy = Several(jnp.asarray(2.0))
    _, after, trajectory = roll(policy, unlimited(limit))
    value = rlscan.replay(policy, trajectory)[2]
    following = jit_next_value(policy, after, trajectory, value)
    wanted = expected(policy, after, trajectory)
    np.testing.assert_allclose(following["q"], np.stack([wanted, -wanted], -1), atol=1e-5)
    assert following["none"] is None


@pytest.mark.slow
def test_a_policy_without_values_has_none():
    class Actor(Sum):
        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            distribution, _, state = super().__call__(observation, state, key=key)
            return distribution, None, state

    policy = Actor(jnp.ones(()))
    _, after, trajectory = roll(policy, unlimited(SELDOM))
    assert jit_next_value(policy, after, trajectory, None) is None


@pytest.mark.slow
def test_the_next_value_of_a_rollout_on_several_devices():
    """The environments are split over devices, and this is a different program."""
    policy, env, mesh = Sum(jnp.asarray(2.0)), unlimited(SELDOM), rlscan.make_mesh(2)
    first = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    after, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, first, T, mesh=mesh)
    assert trajectory.reward.sharding.num_devices == 2
    following = jit_next_value(policy, after, trajectory, 2 * trajectory.observation.sum(-1))
    np.testing.assert_allclose(following, expected(policy, after, trajectory), rtol=1e-5, atol=1e-6)
