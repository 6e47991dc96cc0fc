"""Environments of every suite that is installed: the contract, a rollout, its replay and PPO.

Without a suite's extra its tests are skipped. `.ci/long` runs them for each suite in an environment
of its own.
"""

import importlib.util
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.envs._suites._table import SUITES
from rlscan.testing import check_environment

# Suites use what their dependencies have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Brax System")

# By name: parameters with which episodes are short, and how they end under random actions.
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gymnasium:CartPole-v1": ({"max_episode_steps": 9}, {"truncated"}),
    "pgx:tic_tac_toe": ({}, {"terminated"}),
    "pgx:minatar-breakout": ({}, {"terminated"}),
    "jumanji:Snake-v1": ({"time_limit": 9}, {"terminated", "truncated"}),
    "jumanji:Game2048-v1": ({"time_limit": 9}, {"truncated"}),
    "brax:inverted_pendulum": ({"time_limit": 9}, {"terminated", "truncated"}),
    "playground:CartpoleBalance": ({"episode_length": 9}, {"truncated"}),
    "craftax:Craftax-Classic-Symbolic-v1": ({"max_timesteps": 9}, {"truncated"}),
    "xland:MiniGrid-Empty-5x5": ({"max_steps": 25}, {"terminated", "truncated"}),
}


def suite_of(name: str) -> str:
    return name.partition(":")[0]


def cases(*names: str) -> Any:
    """The cases of the suites that are installed; the others are skipped."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                importlib.util.find_spec(SUITES[suite_of(name)].module) is None,
                reason=f"the extra {suite_of(name)} is not installed",
            ),
        )
        for name in names or CASES
    ]


def test_every_suite_has_a_case() -> None:
    assert {suite_of(name) for name in CASES} == set(SUITES)


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("name", cases())
def test_it_follows_the_contract_in_a_minute_of_one_core(name: str) -> None:
    params, ends = CASES[name]
    env: Any = rlscan.make(name, **params)
    started = time.process_time()
    seen = check_environment(env, num_steps=64)
    assert time.process_time() - started < 60
    assert bool(seen.num_truncated) == ("truncated" in ends)
    assert bool(seen.num_terminated) >= ("terminated" in ends)


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("name", cases())
def test_a_rollout_is_replayed_and_ppo_updates_twice(name: str) -> None:
    env: Any = rlscan.make(name, **CASES[name][0])
    is_same = env == rlscan.make(name, **CASES[name][0])  # so that programs are compiled once
    assert is_same != SUITES[suite_of(name)].keeps_state
    policy = rlscan.policies.ActorCritic(env, dropout=0.5, hidden_sizes=(8,), key=rlscan.key(0))
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(1))
    state, trajectory = rlscan.rollout(policy, env, state, 16)
    log_prob, _, value = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    assert np.isfinite(rlscan.next_value(policy, state, trajectory, value)).all()
    for leaf, space in zip(
        jax.tree.leaves(trajectory.observation), jax.tree.leaves(state.observation), strict=True
    ):
        assert leaf.dtype == space.dtype
    config = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8, num_minibatches=1, num_epochs=1)
    rows = [row for _, row in rlscan.train(policy, env, config, total_steps=32, key=rlscan.key(2))]
    assert len(rows) == 2
    assert all(float(jnp.max(row["audit_error"])) < 1e-5 for row in rows)


@pytest.mark.parametrize("name", cases())
def test_an_unknown_name_gets_near_names(name: str) -> None:
    known = name.partition(":")[2]
    with pytest.raises(ValueError, match=f"did you mean .*{known}"):
        rlscan.make(name[:-1])
    assert known in rlscan.envs.environments(suite_of(name))


@pytest.mark.parametrize("name", cases("playground:CartpoleBalance", "brax:inverted_pendulum"))
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} does not take"):
        rlscan.make(name, no_such_parameter=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases("pgx:tic_tac_toe"))
def test_an_opponent_of_ones_own_plays_the_other_seat(name: str) -> None:
    def first_legal(key: Any, observation: Any, mask: Any) -> Any:
        return jnp.argmax(mask)

    env: Any = rlscan.make(name, opponent=first_legal)
    step = jax.jit(env.step)
    returns = []
    for seed in range(16):
        key, done, total = jax.random.key(seed), False, 0.0
        observation, state = env.reset(key)
        seen = observation
        while not done:
            mask = np.flatnonzero(observation["action_mask"])
            observation, state, reward, terminated, truncated, info = step(
                key, state, jnp.asarray(mask[-1])
            )
            seen = info["final_observation"]
            total, done = total + float(reward), bool(terminated | truncated)
        board = seen["observation"]
        mine, others = board[..., 0], board[..., 1]
        assert not (mine & others).any()
        returns.append(total)
    assert set(returns) <= {-1.0, 0.0, 1.0}
    with pytest.raises(ValueError, match="opponent must be 'random' or a function"):
        rlscan.make(name, opponent="strong")


@pytest.mark.slow
@pytest.mark.parametrize("name", cases("playground:CartpoleBalance", "brax:inverted_pendulum"))
def test_a_model_is_randomized_for_each_episode(name: str) -> None:
    def randomize(key: Any, env: Any) -> Any:
        gravity = jnp.array([0.0, 0.0, -9.81]) * jax.random.uniform(key, (), minval=0.5, maxval=2)
        return eqx.tree_at(lambda e: e.env.changes, env, {"opt.gravity": gravity})

    env = rlscan.envs.RandomizedParams(rlscan.make(name, **CASES[name][0]), randomize)
    assert check_environment(env, num_steps=40, num_envs=4).num_truncated
