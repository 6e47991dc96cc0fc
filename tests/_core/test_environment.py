"""An environment is taken as it is: its numbers, flags and spaces are converted in one place."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core.environment import action_space_of, observation_space_of, step_env
from rlscan._core.spaces import bounds, is_box, legal_action, space_leaves
from rlscan.testing import Box, Walk


class Loose(eqx.Module):
    """`Walk` as people write environments: float flags, and spaces made of jnp arrays."""

    walk: Walk = Walk()
    time_limit: int = eqx.field(static=True, default=7)

    def reset(self, key: Any) -> tuple:
        return self.walk.reset(key)

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        observation, state, reward, *flags, info = self.walk.step(key, state, action)
        terminated, truncated = (flag.astype(jnp.float32) for flag in flags)
        return observation, state, reward, terminated, truncated, info

    def observation_space(self) -> Box:
        return Box(jnp.full(3, -9.0), jnp.full(3, 9.0), (3,))

    def action_space(self) -> Any:
        if not self.walk.is_continuous:
            return self.walk.action_space()
        return Box(jnp.full(2, -0.5), jnp.full(2, 0.5), (2,))


LOOSE = Loose()
PUSHED = Loose(Walk(is_continuous=True))

WRAPPERS = {
    "ObserveOnly": lambda env: rlscan.envs.ObserveOnly(env, [0, 2]),
    "FrameStack": lambda env: rlscan.envs.FrameStack(env, 2),
    "LastActionReward": rlscan.envs.LastActionReward,
    "Wrapper": rlscan.envs.Wrapper,
    "two": lambda env: rlscan.envs.FrameStack(rlscan.envs.FrameStack(env, 2), 2),
    "three": lambda env: rlscan.envs.LastActionReward(
        rlscan.envs.FrameStack(rlscan.envs.ObserveOnly(env, [0, 2]), 2)
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_float_flags_become_booleans(name: str) -> None:
    env, key = WRAPPERS[name](LOOSE), jax.random.key(0)
    state = jax.eval_shape(env.reset, key)[1]
    result = jax.eval_shape(env.step, key, state, jax.ShapeDtypeStruct((), jnp.int32))
    assert result[3].dtype == result[4].dtype == bool


def test_float_flags_are_as_good_as_booleans() -> None:
    key, action = jax.random.key(0), jnp.asarray(0)
    loose, strict = (WRAPPERS["three"](env) for env in (LOOSE, Walk()))
    state = jax.jit(strict.reset)(key)[1]
    steps = [jax.jit(env.step) for env in (loose, strict)]
    for time in (3, 6):  # the seventh step ends the episode
        state = eqx.tree_at(lambda s: s.env_state["time"], state, jnp.asarray(time))
        got, wanted = (step(key, state, action) for step in steps)
        np.testing.assert_equal(jax.device_get(got), jax.device_get(wanted))
        assert got[4] == (time == 6)


def test_a_users_own_wrapper_gets_booleans_from_the_base_class() -> None:
    class Shown(rlscan.envs.Wrapper):
        def step(self, key: Any, state: Any, action: Any) -> Any:
            observation, state, reward, terminated, truncated, info = super().step(
                key, state, action
            )
            return observation, state, reward, terminated | truncated, truncated, info

    state = Walk().reset(jax.random.key(0))[1]
    result = jax.eval_shape(Shown(LOOSE).step, jax.random.key(1), state, 0)
    assert result[3].dtype == bool


def test_a_gymnax_environment_may_have_a_float_flag() -> None:
    from gymnax.environments.classic_control.cartpole import CartPole

    class FloatFlag(CartPole):
        def is_terminal(self, state: Any, params: Any) -> Any:
            return super().is_terminal(state, params).astype(jnp.float32)

        def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
            stepped = super().step_env(key, state, action, params)
            observation, state, reward, terminated, info = stepped
            return observation, state, reward, terminated.astype(jnp.float32), info

    env = rlscan.envs.GymnaxEnvironment(FloatFlag(), CartPole().default_params)
    key = jax.random.key(0)
    state = jax.eval_shape(env.reset, key)[1]
    result = jax.eval_shape(lambda state: step_env(env, key, state, 0), state)
    assert result[3].dtype == result[4].dtype == bool


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("env", [LOOSE, PUSHED], ids=["discrete", "box"])
def test_spaces_of_jnp_arrays_are_constants_under_a_trace(env: Loose, name: str) -> None:
    def read() -> list:
        wrapped = WRAPPERS[name](env)
        spaces = observation_space_of(wrapped), action_space_of(wrapped)
        return [bounds(leaf) for _, leaf in space_leaves(spaces) if is_box(leaf)]

    inside = []
    jax.eval_shape(lambda _: inside.append(read()), 0)
    jax.vmap(lambda _: inside.append(read()))(jnp.zeros(2))
    np.testing.assert_equal(inside, [read()] * 2)


@pytest.mark.parametrize("name", ["ActorCritic", "RecurrentActorCritic", "TransformerActorCritic"])
def test_a_policy_is_built_inside_a_trace(name: str) -> None:
    kind = getattr(rlscan.policies, name)
    sizes = {"num_heads": 1, "embed_size": 8} if name.startswith("T") else {"hidden_sizes": [4]}

    def build(key: Any) -> Any:
        return eqx.filter(kind(WRAPPERS["three"](PUSHED), key=key, **sizes), eqx.is_array)

    made = jax.eval_shape(build, rlscan.key(0))
    assert jax.tree.leaves(made)


def test_a_policy_that_depends_on_a_traced_parameter_is_to_be_built_outside() -> None:
    def build(torque: Any) -> Any:
        env = rlscan.make("Pendulum-v1", max_torque=torque)
        return rlscan.policies.ActorCritic(env, hidden_sizes=[4], key=rlscan.key(0)).initial_state()

    with pytest.raises(TypeError, match="'low' of a Box must be a constant.* build the policy out"):
        jax.vmap(build)(jnp.asarray([1.0, 2.0]))


def test_an_action_is_clipped_to_a_traced_bound() -> None:
    """A policy from outside acts in environments whose bounds differ."""

    def sent(torque: Any) -> Any:
        env = rlscan.envs.LastActionReward(rlscan.make("Pendulum-v1", max_torque=torque))
        return legal_action(action_space_of(env), jnp.asarray([9.0]), None)[0]

    np.testing.assert_array_equal(jax.vmap(sent)(jnp.asarray([1.0, 2.0])), [1.0, 2.0])
