import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from gymnax.environments.environment import Environment as Gymnax
from gymnax.environments.spaces import Box, Discrete
from jaxtyping import Array

import rlscan
from rlscan import ENVIRONMENTS, make, reset_where
from rlscan._core.mesh import FIRST, sharded
from rlscan.envs._gymnax import BOOLEAN_ENVIRONMENTS

# Each has a peculiarity: integer rewards; a scalar observation; a continuous action; a
# one-dimensional continuous action; a float clock; an observation of another dtype than declared.
QUICK = [
    "CartPole-v1",
    "UmbrellaChain-bsuite",
    "FrozenLake-misc",
    "PointRobot-misc",
    "Pendulum-v1",
    "MetaMaze-misc",
    "FourRooms-misc",
]
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ENVIRONMENTS]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_gymnax_is_imported_without_plotting_and_can_plot() -> None:
    code = """
import sys, rlscan, jax
env = rlscan.make("Pong-misc")
assert not {"matplotlib", "seaborn", "pandas", "scipy.stats"} & set(sys.modules), sys.modules
import gymnax.environments.misc.pong as pong
rooms = rlscan.make("FourRooms-misc")
_, state = rooms.reset(rlscan.key(0))
figure, axes = rooms.env.render(state, rooms.params)
import matplotlib.figure, seaborn
assert isinstance(figure, matplotlib.figure.Figure)
assert pong.sns.cubehelix_palette(3) == seaborn.cubehelix_palette(3)
assert pong.colors.ListedColormap is matplotlib.colors.ListedColormap
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "Agg"}
    )


def test_the_names_are_gymnaxs() -> None:
    assert sorted(ENVIRONMENTS) == sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"})
    assert len(ENVIRONMENTS) == len(set(ENVIRONMENTS)) == 25
    assert set(QUICK) < set(ENVIRONMENTS)


# Names and parameters.


@pytest.mark.parametrize(
    "name, near",
    [
        ("CartPole", "did you mean CartPole-v1"),
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("Breakout", "did you mean Breakout-MinAtar"),
        ("MNISTBandit-bsuite", "SimpleBandit-bsuite"),
        ("", "`rlscan.envs.ENVIRONMENTS` lists all"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError) as error:
        make(name)
    assert str(error.value).startswith(f"unknown environment {name!r}") and near in str(error.value)


def test_a_word_that_is_near_to_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ValueError, match="^unknown environment 'xyzzy'; `rlscan"):
        make("xyzzy")


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError) as error:
        make("CartPole-v1", gravty=3.7)
    message = str(error.value)
    assert message.startswith("CartPole-v1 has no parameter 'gravty', did you mean gravity?")
    assert "it has " in message and "masspole" in message
    with pytest.raises(ValueError, match="UmbrellaChain-bsuite has no.*did you mean n_distractor"):
        make("UmbrellaChain-bsuite", n_distracters=3)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="gravity of CartPole-v1 must be a number, such as 9.8"):
        make("CartPole-v1", gravity="heavy")
    with pytest.raises(ValueError, match="UmbrellaChain-bsuite does not take.*n_distractor"):
        make("UmbrellaChain-bsuite", n_distractor="many")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, True, 10**400])
def test_an_invalid_number_of_a_parameter_is_refused(value: Any) -> None:
    message = "gravity of CartPole-v1 must be a number, such as 9.8, got "
    with pytest.raises(ValueError) as error:
        make("CartPole-v1", gravity=value)
    assert str(error.value) == message + repr(value)


@pytest.mark.parametrize("limit", [0, 0.5, -3, 2**31, math.inf, math.nan, True, "long"])
def test_a_time_limit_that_no_episode_can_have_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError) as error:
        make("CartPole-v1", max_steps_in_episode=limit)
    wanted = "max_steps_in_episode of CartPole-v1 must be a positive whole number, such as 500"
    assert str(error.value) == f"{wanted}, got {limit!r}"


def test_flags_are_not_numbers() -> None:
    made: Any = make("FourRooms-misc", resample_init_pos=True)
    assert made.params.resample_init_pos is True
    with pytest.raises(ValueError, match="resample_init_pos of .* must be true or false, .* 0.5"):
        make("FourRooms-misc", resample_init_pos=0.5)


def test_physical_parameters_reach_the_environment() -> None:
    def speed(**params: float) -> float:
        """The angular velocity of the pole after a step from rest at one tenth of a radian."""
        env = make("CartPole-v1", **params)
        _, state = env.reset(rlscan.key(0))
        state = state.replace(x=0.0, x_dot=0.0, theta=0.1, theta_dot=0.0)
        observation, *_ = env.step(rlscan.key(1), state, 1)
        return float(observation[3])

    def reference(gravity: float) -> float:
        """Barto, Sutton & Anderson 1983, with CartPole's masses and lengths, and 10 N."""
        sin, cos = np.sin(0.1), np.cos(0.1)
        pull = 10 / 1.1
        return 0.02 * (gravity * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))

    np.testing.assert_allclose(speed(), reference(9.8), rtol=1e-4)
    np.testing.assert_allclose(speed(gravity=3.7), reference(3.7), rtol=1e-4)
    assert abs(speed() - speed(gravity=3.7)) > 0.01


def test_constructor_arguments_reach_the_environment() -> None:
    assert make("UmbrellaChain-bsuite").observation_space().shape == (3 + 0,)
    env = make("UmbrellaChain-bsuite", n_distractor=4)
    assert env.observation_space().shape == (3 + 4,)
    assert env.reset(rlscan.key(0))[0].shape == (7,)
    both: Any = make("UmbrellaChain-bsuite", n_distractor=4, chain_length=5)
    assert both.params.chain_length == 5 and both.reset(rlscan.key(0))[0].shape == (7,)


@pytest.mark.slow
def test_parameters_can_be_traced_and_mapped_over() -> None:
    def pull(gravity: Any) -> Any:
        env = make("Pendulum-v1", g=gravity)
        _, state = env.reset(rlscan.key(0))
        return env.step(rlscan.key(1), state.replace(theta=1.0, theta_dot=0.0), jnp.zeros(1))[0][2]

    speeds = jax.vmap(pull)(jnp.asarray([0.0, 10.0, 20.0]))
    np.testing.assert_allclose(speeds, [0, 0.75 * np.sin(1), 1.5 * np.sin(1)], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_array_changes_without_another_trace() -> None:
    """A curriculum sets `env.params` between calls of one compiled rollout."""
    env: Any = make("CartPole-v1", gravity=jnp.asarray(9.8))
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))

    @eqx.filter_jit
    def last_seen(policy: Any, env: Any) -> Any:
        state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(1))
        return rlscan.rollout(policy, env, state, 8)[0].observation

    first = last_seen(policy, env)
    lighter = eqx.tree_at(lambda e: e.params.gravity, env, jnp.asarray(1.6))
    with count_compilations() as names:
        second = last_seen(policy, lighter)
        third = last_seen(policy, make("CartPole-v1", gravity=jnp.asarray(1.6)))
    assert not any("last_seen" in name for name in names)
    assert (first != second).any()
    np.testing.assert_array_equal(second, third)


def test_an_array_among_the_parameters_changes_no_limit_and_no_space() -> None:
    plain, held = make("CartPole-v1"), make("CartPole-v1", gravity=jnp.asarray(9.8))
    assert eqx.is_array(held.params.gravity) and held.params.masscart == 1.0  # pyright: ignore
    assert held.time_limit == plain.time_limit == 500  # pyright: ignore
    assert make("CartPole-v1", max_steps_in_episode=jnp.asarray(9)).time_limit is None  # pyright: ignore
    for a, b in zip(*(env.observation_space().low for env in (plain, held)), strict=True):
        assert a == b
    assert held.action_space().n == 2


def test_all_parameters_are_shown() -> None:
    env = make("Pendulum-v1", max_torque=jnp.asarray(2.5))
    shown = (
        "GymnaxEnvironment(env=Pendulum-v1, params=EnvParams(max_steps_in_episode=200, "
        "max_speed=8.0, max_torque=Array(2.5, dtype=float32, weak_type=True), dt=0.05, g=10.0, "
        "m=1.0, l=1.0))"
    )
    assert repr(env) == shown
    wrapped = rlscan.envs.FrameStack(rlscan.envs.ObserveOnly(env, [0, 1]), 3)
    assert (
        repr(wrapped) == f"FrameStack(env=ObserveOnly(env={shown}, indices=(0, 1)), num_frames=3)"
    )


# All of them run.


class RandomPolicy(eqx.Module):
    """Draw an action, from the attributes of its space alone."""

    env: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        import distrax

        space = self.env.action_space()
        if hasattr(space, "n"):
            return distrax.Categorical(logits=jnp.zeros(space.n)), jnp.zeros(()), state
        mean = jnp.zeros(space.shape)
        return distrax.Independent(distrax.Normal(mean, 3 + mean), mean.ndim), mean.sum(), state

    def initial_state(self) -> Any:
        return ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_resets_steps_and_rolls_out(name: str) -> None:
    """The contract holds, and no episode is truncated before its time limit."""
    env = make(name, max_steps_in_episode=3)
    policy = RandomPolicy(env)
    rollout = eqx.filter_jit(eqx.debug.assert_max_traces(rlscan.rollout, max_traces=1))
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    after, trajectory = rollout(policy, env, state, 7)
    again, _ = rollout(policy, env, after, 7)  # the result can be passed in without another trace

    space: Any = env.observation_space()
    shape = tuple(getattr(space, "shape", ()))
    assert trajectory.observation.shape == (7, 2, *shape)
    assert trajectory.observation.dtype == state.observation.dtype == space.dtype
    assert trajectory.final is not None and trajectory.final.observation.dtype == space.dtype
    assert trajectory.reward.dtype == jnp.float32 and trajectory.reward.shape == (7, 2)
    assert trajectory.terminated.dtype == trajectory.truncated.dtype == jnp.bool_
    for leaf in jax.tree.leaves((again, trajectory)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert jnp.isfinite(leaf).all()
    assert eqx.tree_equal(*map(eqx.filter_eval_shape, [lambda s: s] * 2, (state, again)))

    assert (trajectory.episode_length[trajectory.truncated] >= 3).all()
    observation = np.asarray(trajectory.observation)
    if hasattr(space, "n"):
        assert observation.min() >= 0 and observation.max() < space.n


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["UmbrellaChain-bsuite", "FourRooms-misc", "CartPole-v1", "Breakout-MinAtar"]
)
def test_the_adapter_changes_dtypes_and_nothing_else(name: str) -> None:
    env, (raw, params) = make(name), gymnax.make(name)
    observation, state = env.reset(rlscan.key(3))
    raw_observation, raw_state = raw.reset(rlscan.key(3), params)
    np.testing.assert_array_equal(observation, raw_observation)
    ours = env.step(rlscan.key(4), state, 1)
    theirs = raw.step(rlscan.key(4), raw_state, 1, params)
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(ours[i], theirs[i])
    assert eqx.tree_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(ours[5]["final_observation"], theirs[5]["final_observation"])
    # Differences from gymnax that the adapter makes.
    declared: Any = env.observation_space()
    assert ours[0].dtype == ours[5]["final_observation"].dtype == declared.dtype
    assert ours[2].dtype == jnp.float32
    if name == "UmbrellaChain-bsuite":
        assert theirs[2].dtype == jnp.int32
    if name in ("FourRooms-misc", "Breakout-MinAtar"):
        assert theirs[0].dtype != declared.dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", BOOLEAN_ENVIRONMENTS)
def test_pixels_that_are_booleans_are_0_or_1_to_gymnax(name: str) -> None:
    """Pixels are booleans in many short episodes of random actions, in final observations too."""
    space: Any = make(name).observation_space()
    assert space.dtype == bool and (space.low, space.high) == (0, 1)
    raw, params = gymnax.make(name)
    params = params.replace(max_steps_in_episode=60)

    def step(state: Any, key: Any) -> Any:
        action_key, key = jax.random.split(key)
        action = raw.action_space(params).sample(action_key)
        observation, state, _, terminated, truncated, info = raw.step(key, state, action, params)
        return state, ((observation, info["final_observation"]), terminated | truncated)

    _, state = raw.reset(rlscan.key(0), params)
    keys = jax.random.split(rlscan.key(1), 600)
    _, (seen, done) = jax.jit(lambda s: jax.lax.scan(step, s, keys))(state)
    for pixels in map(np.asarray, seen):
        assert pixels.dtype == np.float32 and pixels.shape == (600, *space.shape)
        assert set(np.unique(pixels)) == {0, 1}
    assert done.sum() >= 10


def test_pixels_of_a_wrapper_are_left_alone() -> None:
    from gymnax.wrappers.purerl import FlattenObservationWrapper

    raw, params = gymnax.make("Breakout-MinAtar")
    env = rlscan.envs.GymnaxEnvironment(FlattenObservationWrapper(raw), params)
    assert env.reset(rlscan.key(0))[0].dtype == jnp.float32


# Resets are drawn only in steps that need them, and equal those of gymnax.


def steps_mapped_over(env: Any, shape: tuple[int, ...], step: Callable, *, ended: int) -> Any:
    """One step of a batch of CartPoles, in which the first `ended` fall."""
    keys = jax.random.split(rlscan.key(1), shape)
    for _ in shape:
        step = jax.vmap(step)
    observation, state = env.reset(rlscan.key(0))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, shape), state)
    fallen = (jnp.arange(keys.size) < ended).reshape(shape)
    state = state.replace(theta=jnp.where(fallen, 1.0, state.theta))
    return step, (keys, state, jnp.ones(shape, jnp.int32))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8,), (2, 4)])
@pytest.mark.parametrize("ended", [0, 3, 8])
def test_environments_that_end_together_are_reset_as_gymnax_does(shape: tuple, ended: int) -> None:
    env, (raw, params) = make("CartPole-v1"), gymnax.make("CartPole-v1")
    gymnax_step = lambda key, state, action: raw.step(key, state, action, params)  # noqa: E731
    ours, theirs = (
        jax.jit(step)(*arguments)
        for step, arguments in (
            steps_mapped_over(env, shape, f, ended=ended) for f in (env.step, gymnax_step)
        )
    )
    assert ours[3].sum() == ended
    for a, b in zip(jax.tree.leaves(ours[:5]), jax.tree.leaves(theirs[:5]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (8,), (2, 4)])
def test_no_reset_is_drawn_in_a_step_that_ends_no_episode(shape: tuple) -> None:
    """It holds under a second vmap, over seeds, too; a plain `cond` would run both branches."""
    resets = []

    def step(key: Array, done: Array) -> Array:
        def reset() -> Array:
            jax.debug.callback(lambda: resets.append(1))
            return jax.random.uniform(key)

        return reset_where(done, reset, jnp.float32(7.0))

    keys = jax.random.split(rlscan.key(1), shape)
    for _ in shape:
        step = jax.vmap(step)
    nobody = jnp.zeros(shape, bool)
    assert (jax.jit(step)(keys, nobody) == 7).all()
    jax.effects_barrier()
    assert not resets
    first = nobody.ravel().at[0].set(True).reshape(shape)
    stepped = jax.jit(step)(keys, first)
    jax.effects_barrier()
    assert resets
    assert ((stepped != 7) == first).all()


def test_five_values_of_gymnax_before_1_are_refused() -> None:
    class Old:
        name = "Old-v0"

        def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
            return 0, 0, 0, 0, {}

    env = rlscan.envs.GymnaxEnvironment(Old(), None)
    with pytest.raises(ValueError, match="Old-v0.step must return six values.*got 5.*gymnax>=1.0"):
        env.step(rlscan.key(0), 0, 0)


# Time limits.


def truncated_lengths(name: str, limit: int, num_steps: int) -> np.ndarray:
    """The lengths of the episodes that a rollout truncated."""
    env = make(name, max_steps_in_episode=limit)
    assert getattr(env, "time_limit", None) == limit
    policy = RandomPolicy(env)
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, num_steps)
    return np.asarray(trajectory.episode_length)[np.asarray(trajectory.truncated)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_no_episode_is_truncated_before_its_time_limit(name: str) -> None:
    """Episodes are truncated at the limit and not before, which the K slots rely on."""
    lengths = truncated_lengths(name, limit=3, num_steps=7)
    assert len(lengths) > 0 and (lengths == 3).all()


@pytest.mark.slow
def test_time_limits() -> None:
    assert make("CartPole-v1").time_limit == 500  # pyright: ignore
    limit: Any = make("CartPole-v1", max_steps_in_episode=7)
    assert limit.time_limit == 7 and type(limit.time_limit) is int
    as_float: Any = make("BernoulliBandit-misc", max_steps_in_episode=7)  # 100.0 by default
    assert as_float.time_limit == 7 and as_float.params.max_steps_in_episode == 7
    # An array cannot size the slots, nor can an environment that truncates by other rules.
    traced: Any = make("CartPole-v1", max_steps_in_episode=jnp.asarray(7))
    assert traced.time_limit is None

    class Otherwise(type(gymnax.make("CartPole-v1")[0])):
        def is_truncated(self, state: Any, params: Any) -> Any:
            return jnp.asarray(True)

    env = Otherwise()
    assert rlscan.envs.GymnaxEnvironment(env, env.default_params).time_limit is None
    for name in ENVIRONMENTS:  # a new gymnax may truncate otherwise: then this list has changed
        raw, params = gymnax.make(name)
        by_time = type(raw).is_truncated is Gymnax.is_truncated
        ours: Any = make(name)
        assert by_time and ours.time_limit == params.max_steps_in_episode


# Lazy imports.


@pytest.mark.slow
def test_importing_the_library_is_light() -> None:
    code = (
        "import sys, rlscan\n"
        "heavy = {'gymnax', 'distrax', 'matplotlib', 'tensorflow_probability', 'pandas', 'flax'}\n"
        "try: rlscan.make('CartPole')\n"
        "except ValueError as error: assert 'CartPole-v1' in str(error)\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "rlscan.make('CartPole-v1')\n"
        "assert 'gymnax' in sys.modules\n"  # so that the check above can see
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_reset_where_takes_python_numbers():
    fresh = lambda: (jnp.zeros(2), 0)  # noqa: E731
    for done, expected in ((True, 0), (jnp.asarray(False), 3)):
        _, state = reset_where(done, fresh, (jnp.ones(2), 3))
        assert state == expected


def test_on_a_mesh_each_device_resets_for_its_own_environments() -> None:
    resets = []

    def step(done: Array) -> tuple:
        def reset() -> Array:
            jax.debug.callback(lambda: resets.append(1))
            return jnp.float32(0.0)

        return (reset_where(done, reset, jnp.float32(7.0)),)

    on_devices = jax.jit(sharded(jax.vmap(step), rlscan.make_mesh(2), (FIRST,), (FIRST,)))
    for done, num_resets in (([0, 0, 0, 0], 0), ([1, 1, 0, 0], 1), ([0, 1, 1, 0], 2)):
        del resets[:]
        (stepped,) = on_devices(jnp.asarray(done, bool))
        jax.effects_barrier()
        assert len(resets) == num_resets
        np.testing.assert_array_equal(stepped, np.where(done, 0, 7))


def test_how_often_a_rollout_computes_its_resets() -> None:
    """Once in each step in which an episode ends: of any seed, but only of the own device."""
    resets = []

    class Periodic(eqx.Module):
        """An episode ends after as many steps as the state says."""

        def reset(self, key: Any) -> tuple:
            return jnp.zeros(1), {"time": jnp.asarray(0), "period": jnp.asarray(1)}

        def step(self, key: Any, state: Any, action: Any) -> tuple:
            after = {**state, "time": state["time"] + 1}
            done = after["time"] == state["period"]

            def reset() -> tuple:
                jax.debug.callback(lambda: resets.append(1))
                return jnp.zeros(1), {**state, "time": jnp.asarray(0)}

            final = jnp.ones(1)
            observation, after = reset_where(done, reset, (final, after))
            return observation, after, 0.0, done, False, {"final_observation": final}

        def observation_space(self) -> Any:
            return Box(0, 1, (1,))

        def action_space(self) -> Any:
            return Discrete(2)

    env = Periodic()
    policy = RandomPolicy(env)
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))

    def count(periods: list, **settings: Any) -> int:
        of = lambda x: eqx.tree_at(lambda s: s.env_state["period"], state, x)  # noqa: E731
        play = lambda x: rlscan.rollout(policy, env, of(x), 15, **settings)[1].terminated  # noqa: E731
        del resets[:]
        done = (jax.vmap(play) if np.ndim(periods) == 2 else play)(jnp.asarray(periods))
        jax.effects_barrier()
        lengths = 15 // np.asarray(periods)
        assert (np.asarray(done).sum(axis=-2) == lengths).all()
        return len(resets)

    assert count([3, 5]) == len({3, 6, 9, 12, 15, 5, 10})
    assert count([[3, 5], [7, 15]]) == len({3, 6, 9, 12, 15, 5, 10, 7, 14})
    assert count([3, 5], mesh=rlscan.make_mesh(2)) == 5 + 3
