"""Environments on the host, against a pool of counters that says what it was asked."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.envs._host import HostEnvironment, Stepped
from rlscan.runs._config import Config, EnvConfig, check
from rlscan.runs._machine import best_num_devices

LIMIT = 5


class Counters:
    """Environments that show `(seed modulo 1000, time)`, and are truncated after 5 steps."""

    made: list["Counters"] = []

    def __init__(self, seeds: list[int]):
        self.seeds, self.num_steps, self.is_closed = np.array(seeds) % 1000, 0, False
        self.time = np.zeros(len(seeds))
        Counters.made.append(self)

    def _see(self) -> Any:
        return np.stack([self.seeds, self.time], axis=1)

    def reset(self) -> Any:
        return self._see()

    def step(self, actions: Any) -> Stepped:
        self.num_steps, self.time = self.num_steps + 1, self.time + 1
        final, over = self._see(), self.time >= LIMIT
        self.time = np.where(over, 0, self.time)
        return Stepped(self._see(), actions * 1.0, np.zeros(len(over), bool), over, final)

    def close(self) -> None:
        self.is_closed = True


def make() -> Any:
    Counters.made.clear()
    seen, actions = rlscan.envs.Box(0, 1000, (2,)), rlscan.envs.Discrete(2)
    return HostEnvironment(Counters, seen, actions, name="counters", time_limit=LIMIT)


def begin(env: Any, num_envs: int) -> Any:
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), dropout=0.5, key=rlscan.key(0))
    return policy, rlscan.init_rollout(policy, env, num_envs=num_envs, key=rlscan.key(1))


def test_all_environments_are_stepped_by_one_call() -> None:
    env = make()
    policy, state = begin(env, 3)
    _, trajectory = rlscan.rollout(policy, env, state, 12)
    (pool,) = Counters.made
    assert pool.num_steps == 12 and len(set(pool.seeds)) == 3
    seeds, times = np.moveaxis(np.asarray(trajectory.observation), -1, 0)
    np.testing.assert_array_equal(seeds, np.tile(pool.seeds, (12, 1)))
    np.testing.assert_array_equal(times[:, 0], np.arange(12) % LIMIT)
    np.testing.assert_array_equal(trajectory.reward, trajectory.action)
    np.testing.assert_array_equal(np.flatnonzero(trajectory.truncated[:, 1]), [4, 9])
    final: Any = trajectory.final
    np.testing.assert_array_equal(final.observation[:2, :, 1], LIMIT)
    log_prob, _, _ = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)


def test_seeds_depend_neither_on_the_number_nor_on_other_pools() -> None:
    env = make()
    begin(env, 3)
    begin(env, 2)
    first, second = Counters.made
    np.testing.assert_array_equal(first.seeds[:2], second.seeds)


def test_environments_that_are_gone_are_made_again_and_cut_their_episodes_once() -> None:
    """What another process's state leads to: two steps of old episodes, then a cut."""
    policy, state = begin(before := make(), 2)
    state, _ = rlscan.rollout(policy, before, state, 2)
    env = make()
    with pytest.warns(UserWarning, match="the 2 environments of counters are gone.* are cut"):
        after, trajectory = rlscan.rollout(policy, env, state, 4)
        jax.block_until_ready(trajectory.reward)
    np.testing.assert_array_equal(trajectory.truncated[:, 0], [True, False, False, False])
    np.testing.assert_array_equal(trajectory.episode_length[:, 0], [3, 1, 2, 3])
    np.testing.assert_array_equal(trajectory.observation[:, 0, 1], [2, 0, 1, 2])
    final: Any = trajectory.final
    np.testing.assert_array_equal(final.observation[0], state.observation)
    assert not trajectory.terminated.any() and np.isfinite(trajectory.reward).all()
    _, _, value = rlscan.replay(policy, trajectory)
    assert np.isfinite(rlscan.next_value(policy, after, trajectory, value)).all()


def test_the_least_recently_used_pool_is_closed() -> None:
    env = make()
    for _ in range(6):
        begin(env, 1)
    assert [pool.is_closed for pool in Counters.made] == [True, True, *[False] * 4]


def test_a_part_of_the_environments_is_refused() -> None:
    env = make()
    policy, state = begin(env, 4)
    arrays, rest = eqx.partition(state, eqx.is_array)
    part = eqx.combine(jax.tree.map(lambda x: x[:2], arrays), rest)
    with pytest.raises(Exception, match="its 4 environments must be stepped together"):
        jax.block_until_ready(rlscan.rollout(policy, env, part, 2)[1].reward)


def test_runs_side_by_side_and_several_devices_are_refused() -> None:
    env = make()
    policy, state = begin(env, 2)
    config = rlscan.ppo.PPOConfig(num_envs=2, num_steps=4, num_minibatches=1)
    keys = jnp.stack([rlscan.key(0), rlscan.key(1)])

    def make_policy(*, key: Any) -> Any:
        return rlscan.policies.ActorCritic(env, key=key)

    with pytest.raises(ValueError, match="counters runs outside of JAX, .* got 2 runs"):
        rlscan.train(make_policy, env, config, total_steps=8, key=keys)
    mesh = rlscan.make_mesh(2)
    with pytest.raises(ValueError, match="one device, got 2 devices"):
        rlscan.train(policy, env, config, total_steps=8, key=rlscan.key(0), mesh=mesh)
    with pytest.raises(ValueError, match="one device, got 2 devices"):
        rlscan.rollout(policy, env, state, 2, mesh=mesh)


@pytest.mark.parametrize("setting", ["num_seeds", "num_devices"])
def test_a_config_with_several_is_refused(setting: str) -> None:
    env = EnvConfig(name="gymnasium:CartPole-v1")
    with pytest.raises(ValueError, match="gymnasium:CartPole-v1 runs outside of JAX"):
        check(Config(env=env, **{setting: 2}))  # pyright: ignore[reportArgumentType]
    many = rlscan.ppo.PPOConfig(num_envs=256, num_steps=64, num_minibatches=2)
    assert best_num_devices(2, Config(env=env, ppo=many)) == 1
    assert best_num_devices(2, Config(ppo=many)) == 2
