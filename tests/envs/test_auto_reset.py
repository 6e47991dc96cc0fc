"""`AutoReset`, against the steps of the environment that it resets, made by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations

import rlscan
from rlscan.testing import check_environment


class Raw:
    """A walk that never resets itself. Its flags are floats, its reward is an integer."""

    def __init__(self, cuts: bool = False):
        self.cuts = cuts  # whether it truncates itself, after 3 steps

    def reset(self, key: Any) -> tuple:
        position = jax.random.uniform(key, (1,), minval=-0.5, maxval=0.5)
        return position, {"position": position, "time": 0}

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        noise = 0.1 * jax.random.normal(key, (1,))
        position = state["position"] + 0.3 * (2 * action - 1) + noise
        after = {"position": position, "time": state["time"] + 1}
        done = (jnp.abs(position[0]) > 1).astype(jnp.float32)
        return position, after, 1, done, float(self.cuts) * (after["time"] >= 3)

    def observation_space(self) -> Any:
        return rlscan.envs.Box(-np.inf, np.inf, (1,))

    def action_space(self) -> Any:
        return rlscan.envs.Discrete(2)


LIMIT = 5


def test_every_step_is_the_inner_one_until_an_end() -> None:
    """Both ends at once are a termination, and a reset takes the second half of the step's key."""
    raw, limit = Raw(), LIMIT
    env = rlscan.envs.AutoReset(raw, time_limit=limit)
    keys = jax.random.split(jax.random.key(1), 150)
    halves = jax.vmap(jax.random.split)(keys)
    actions = np.asarray(jax.random.bernoulli(keys[0], 0.7, (150,)), int)
    _, state = env.reset(keys[0])
    reset, step, ends, time = jax.jit(raw.reset), jax.jit(raw.step), [], 0
    for one, (step_key, reset_key), action in zip(keys, halves, actions, strict=True):
        seen, inner, _, done, _ = step(step_key, state.env_state, action)
        observation, after, reward, terminated, truncated, info = env.step(one, state, action)
        time += 1
        np.testing.assert_allclose(info["final_observation"], seen, rtol=1e-6)
        np.testing.assert_allclose(
            info["final_state"].env_state["position"], inner["position"], rtol=1e-6
        )
        assert terminated == bool(done) and truncated == (time >= limit and not done)
        assert (terminated.dtype, truncated.dtype, reward.dtype) == (bool, bool, jnp.float32)
        if terminated | truncated:
            ends.append((bool(terminated), time))
            seen, time = reset(reset_key)[0], 0
        np.testing.assert_allclose(observation, seen, rtol=1e-6)
        assert after.time == time
        state = after
    assert (False, LIMIT) in ends and (True, LIMIT) in ends and min(ends)[0] is False


@pytest.mark.parametrize("cuts", [False, True])
def test_it_follows_the_contract(cuts: bool) -> None:
    slots = {"final_slots": 40} if cuts else {}
    env = rlscan.envs.AutoReset(Raw(cuts), time_limit=LIMIT, **slots)
    seen = check_environment(env, num_steps=64)
    assert seen.num_terminated > 5 and seen.num_truncated > 5
    assert env.time_limit == (None if cuts else LIMIT)
    assert env.final_slots == (40 if cuts else None)


def test_steps_by_hand_are_compiled_once() -> None:
    env = rlscan.envs.AutoReset(Raw(), time_limit=LIMIT)
    _, state = env.reset(jax.random.key(0))
    env.step(jax.random.key(1), state, jnp.asarray(1))
    with count_compilations() as names:
        for t in range(3):
            _, state, *_ = env.step(jax.random.key(0), state, jnp.asarray(t % 2))
    assert names == []


@pytest.mark.parametrize("name", ["time_limit", "final_slots"])
def test_an_invalid_count_is_refused(name: str) -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got"):
            rlscan.envs.AutoReset(Raw(), **{name: count})


def test_it_shows_what_it_was_given() -> None:
    env = rlscan.envs.AutoReset(Raw(), time_limit=5, final_slots=2)
    assert repr(env).startswith("AutoReset(<") and repr(env).endswith(
        "time_limit=5, final_slots=2)"
    )
