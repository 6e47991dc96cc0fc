"""Wrappers, against stacks made in NumPy from the results of the inner environment."""

from typing import Any, NamedTuple

import distrax
import equinox as eqx
import gymnasium.spaces as gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan._core.spaces import Box, Nested, is_box, is_discrete, parts_of
from rlscan.runs._build import build_env, build_policy
from rlscan.runs._config import Config, EnvConfig, check, from_dict, to_dict
from rlscan.runs._parse import parse
from rlscan.runs._policy_file import save_policy

T = 40


class Picture(eqx.Module):
    """An environment with observations of every kind and a tuple of actions.

    Episodes last 4 steps. An even `start` terminates them, an odd one truncates them.
    """

    time_limit: int = eqx.field(static=True, default=4)

    def _see(self, state: Any) -> Any:
        start, time = state
        image = (jnp.arange(12).reshape(2, 3, 2) + start) % (time + 2) == 0
        mask = jnp.arange(3) <= time % 3
        here = {"kind": (start + time) % 5, "height": start / 10 + time}
        return {"image": image, "here": here, "pair": (time, start), "action_mask": mask}

    def reset(self, key: Any) -> tuple:
        state = jax.random.randint(key, (), 0, 5), jnp.zeros((), jnp.int32)
        return self._see(state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        start, time = state
        after = start, time + 1
        over = time == 3
        ends = over & (start % 2 == 0), over & (start % 2 == 1)
        reward = (start + time).astype(jnp.float32)
        return probes.finish(self, key, self._see(after), after, reward, ends)

    def observation_space(self) -> dict:
        kind, time = probes.Discrete(5), probes.Discrete(5)
        here = {"kind": kind, "height": probes.Box(0.0, 9.0, ())}
        image, mask = probes.Box(0, 1, (2, 3, 2)), probes.Box(0, 1, (3,))
        return {"image": image, "here": here, "pair": (time, kind), "action_mask": mask}

    def action_space(self) -> tuple:
        return probes.Discrete(3), probes.Box(-1.0, 1.0, (2,))


def follow(env: Any, action: Any) -> tuple[list, list, list]:
    """`(observations, final observations, dones)` of T steps, with T + 1 observations."""
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    keys = jax.random.split(jax.random.key(0), T + 1)
    observation, state = reset(keys[0])
    seen, last, dones = [observation], [], []
    for t in range(T):
        observation, state, reward, terminated, truncated, info = step(
            keys[t + 1], state, action(t)
        )
        seen.append(observation)
        last.append((info["final_observation"], action(t), reward))
        dones.append(bool(terminated | truncated))
    assert 3 < sum(dones) < T - 3
    return jax.device_get(seen), jax.device_get(last), dones


def one_action(t: int) -> Any:
    return jnp.asarray(t % 3)


def pair_of_actions(t: int) -> Any:
    return jnp.asarray(t % 3), jnp.array([0.5, -0.1 * (t % 7)], jnp.float32)


def assert_equal(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_allclose(
            x, y, rtol=1e-5, atol=1e-6
        )  # the two programs are compiled separately


def in_space(space: Any, x: Any) -> bool:
    parts = parts_of(space)
    if isinstance(parts, dict):
        return parts.keys() == x.keys() and all(in_space(parts[k], x[k]) for k in parts)
    if parts is not None:
        return all(in_space(s, y) for s, y in zip(parts, x, strict=True))
    if is_discrete(space):
        return np.shape(x) == () and 0 <= x < space.n
    return is_box(space) and np.shape(x) == tuple(space.shape) and bool(np.all(space.low <= x))


def episodes(seen: list, last: list, dones: list) -> list[tuple[list, Any]]:
    """For each observation, its episode up to it, without and with the step's final observation."""
    history, found = [seen[0]], []
    for t, done in enumerate(dones):
        found.append((list(history), [*history, last[t][0]]))
        history = [seen[t + 1]] if done else [*history, seen[t + 1]]
    return [*found, (history, None)]


# Frame stacks.


def stack(frames: list, n: int) -> Any:
    """The last n frames of an episode; the first is repeated if there are fewer."""
    frames = ([frames[0]] * n + frames)[-n:]

    def join(*parts: Any) -> Any:
        return np.concatenate([np.atleast_1d(part) for part in parts], axis=-1)

    if not isinstance(frames[0], dict):
        return join(*frames)
    here = [frame["here"] for frame in frames]
    return {
        "image": join(*(frame["image"] for frame in frames)),
        "here": {
            "kind": tuple(h["kind"] for h in here),
            "height": join(*(h["height"] for h in here)),
        },
        "pair": tuple(tuple(frame["pair"][i] for frame in frames) for i in (0, 1)),
        "action_mask": frames[-1]["action_mask"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "env, action", [(probes.Wander(), one_action), (Picture(), pair_of_actions)], ids=["vector", ""]
)
def test_frames_are_those_of_the_episode(env: Any, action: Any, n: int) -> None:
    """A stack after a reset holds the new episode alone, the final one the old episode."""
    inner, wrapper = follow(env, action), rlscan.envs.FrameStack(env, n)
    seen, last, dones = follow(wrapper, action)
    assert dones == inner[2]
    for t, (frames, frames_and_final) in enumerate(episodes(*inner)):
        assert_equal(seen[t], stack(frames, n))
        assert in_space(wrapper.observation_space(), seen[t])
        if t < T:
            assert_equal(last[t][0], stack(frames_and_final, n))
    assert wrapper.time_limit == env.time_limit
    assert wrapper.action_space() == env.action_space()


def test_an_image_is_stacked_by_its_channels() -> None:
    env = rlscan.envs.FrameStack(rlscan.make("Breakout-MinAtar"), 3)
    space = env.observation_space()
    assert (space.shape, space.low.shape) == ((10, 10, 12), (10, 10, 12))
    assert jax.eval_shape(env.reset, jax.random.key(0))[0].shape == (10, 10, 12)


@pytest.mark.slow
def test_a_rollout_keeps_the_final_stack_to_bootstrap_from() -> None:
    env = rlscan.envs.FrameStack(probes.Wander(), 2)
    policy = probes.dropout_policy(num_inputs=8)
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(0))
    roll = eqx.filter_jit(rlscan.rollout)
    state, _ = roll(policy, env, state, 16)
    state, trajectory = roll(policy, env, state, 16)
    log_prob, _, _ = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    kept: Any = trajectory.final
    assert kept.step.shape == (3, 4)  # ⌈16 / 7⌉: the time limit came through
    used = [(k, n) for k, n in np.ndindex(3, 4) if kept.step[k, n] < 16]
    assert used
    for k, n in used:
        t, final = kept.step[k, n], kept.observation[k, n]
        np.testing.assert_array_equal(final[:4], trajectory.observation[t, n, 4:])
        if t < 15:
            assert (trajectory.observation[t + 1, n, :4] != final[4:]).any()


# The last action and reward.


@pytest.mark.slow
@pytest.mark.parametrize(
    "env, action", [(probes.Wander(), one_action), (Picture(), pair_of_actions)], ids=["vector", ""]
)
def test_last_action_and_reward_are_those_of_the_step_before(env: Any, action: Any) -> None:
    (inner, last, dones), wrapper = follow(env, action), rlscan.envs.LastActionReward(env)
    seen, wrapped_last, _ = follow(wrapper, action)
    nothing = jax.tree.map(np.zeros_like, (action(0), np.float32(0)))

    def beside(observation: Any, done: Any, reward: Any) -> Any:
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return {**parts, "last_action": done, "last_reward": np.asarray(reward)}

    assert_equal(seen[0], beside(inner[0], *nothing))
    for t in range(T):
        final, done, reward = last[t]
        assert_equal(wrapped_last[t][0], beside(final, done, reward))
        before = nothing if dones[t] else (done, reward)
        assert_equal(seen[t + 1], beside(inner[t + 1], *before))
        assert in_space(wrapper.observation_space(), seen[t + 1])
    assert any(abs(reward) > 0 for (_, _, reward), done in zip(last, dones, strict=True) if done)
    assert wrapper.time_limit == env.time_limit


class Reader(eqx.Module):
    """A GRU that reads the observation, the last action as one of three, and the last reward."""

    inner: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        action = jax.nn.one_hot(observation["last_action"], 3)
        parts = observation["observation"], action, observation["last_reward"][None]
        return self.inner(jnp.concatenate(parts), state, key=key)

    def initial_state(self) -> Any:
        return self.inner.initial_state()


@pytest.mark.slow
def test_a_recurrent_policy_is_replayed_with_its_actions() -> None:
    env = rlscan.envs.LastActionReward(
        rlscan.envs.FrameStack(rlscan.envs.ObserveOnly(probes.Wander(), [0, 2]), 2)
    )
    policy = Reader(probes.Recurrent(num_inputs=8))
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 16)
    log_prob, _, _ = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)


class Sent(eqx.Module):
    """A Gaussian that is wider than its box."""

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        normal = distrax.Normal(jnp.zeros(2), 5 * jnp.ones(2))
        return distrax.Independent(normal, 1), jnp.zeros(()), state

    def initial_state(self) -> tuple:
        return ()


@pytest.mark.slow
def test_the_observed_action_is_the_one_that_was_sent() -> None:
    env: Any = rlscan.envs.LastActionReward(probes.Wander(is_continuous=True, end_above=1e9))
    state = rlscan.init_rollout(Sent(), env, num_envs=2, key=rlscan.key(0))
    _, trajectory = rlscan.rollout(Sent(), env, state, 5)
    np.testing.assert_array_equal(trajectory.observation["last_action"][0], np.zeros((2, 2)))
    np.testing.assert_array_equal(
        trajectory.observation["last_action"][1:], np.clip(trajectory.action[:-1], -0.5, 0.5)
    )
    np.testing.assert_array_equal(trajectory.observation["last_reward"][1:], trajectory.reward[:-1])


@pytest.mark.parametrize(
    "space, first_action",
    [
        (gymnasium.Discrete(3, start=-1), -1),
        (gymnasium.MultiDiscrete([3, 4], start=[2, -5]), [2, -5]),
        (gymnasium.MultiBinary(2), [0, 0]),
        (gymnasium.Box(1, 2, (2,)), [0, 0]),
    ],
)
def test_an_episode_begins_with_the_first_action(space: Any, first_action: Any) -> None:
    class Shifted(rlscan.envs.Wrapper):
        def action_space(self) -> Any:
            return space

    shifted = Shifted(probes.Wander())
    first, _ = rlscan.envs.LastActionReward(shifted).reset(jax.random.key(0))
    np.testing.assert_array_equal(first["last_action"], first_action)


# Selected entries.


@pytest.mark.slow
def test_a_part_is_observed() -> None:
    inner, last, _ = follow(probes.Wander(), one_action)
    wrapper = rlscan.envs.ObserveOnly(probes.Wander(), [3, 0])
    seen, wrapped_last, _ = follow(wrapper, one_action)
    for t in range(T):
        assert_equal(seen[t], inner[t][[3, 0]])
        assert_equal(wrapped_last[t][0], last[t][0][[3, 0]])
    assert (wrapper.time_limit, wrapper.action_space()) == (7, probes.Discrete(3))


def test_the_velocities_of_cartpole_are_hidden() -> None:
    env = rlscan.make("CartPole-v1")
    space, part = env.observation_space(), rlscan.envs.ObserveOnly(env, [0, 2]).observation_space()
    assert part.shape == (2,)
    np.testing.assert_array_equal(part.high, np.asarray(space.high)[[0, 2]])
    np.testing.assert_array_equal(part.low, np.asarray(space.low)[[0, 2]])


# Errors.


@pytest.mark.parametrize("indices", [[], [0, 4], [-1], [1, 1]])
def test_indices_out_of_range_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match=r"indices must be different .* from 0 to 3, got \["):
        rlscan.envs.ObserveOnly(probes.Wander(), indices)


def test_indices_into_another_space_than_a_vector_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an observation that is a vector \(a Box \[d\]\), got"):
        rlscan.envs.ObserveOnly(rlscan.make("Breakout-MinAtar"), [0])


@pytest.mark.parametrize("n", [0, -1, True])
def test_a_stack_of_no_frames_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="num_frames must be a positive integer, got"):
        rlscan.envs.FrameStack(probes.Wander(), n)


def test_spaces_that_cannot_be_stacked_are_refused() -> None:
    class Strange(rlscan.envs.Wrapper):
        def observation_space(self) -> Any:
            return "text"

    with pytest.raises(ValueError, match="stacks a Box, a Discrete, or dicts and tuples of them"):
        rlscan.envs.FrameStack(Strange(probes.Wander()), 2)


def test_a_second_wrapper_of_the_same_kind_is_refused() -> None:
    env = rlscan.envs.LastActionReward(probes.Wander())
    with pytest.raises(ValueError, match="has last_action and last_reward already"):
        rlscan.envs.LastActionReward(env).reset(jax.random.key(0))


# In a config.


def test_a_config_wraps_in_order() -> None:
    argv = "--env.observe [0,2] --env.frame_stack 3 --env.last-action-reward true".split()
    env: Any = build_env(parse(argv))
    assert isinstance(env, rlscan.envs.LastActionReward)
    assert isinstance(env.env, rlscan.envs.FrameStack)
    assert isinstance(env.env.env, rlscan.envs.ObserveOnly)
    assert env.env.observation_space().shape == (6,)
    assert isinstance(build_env(Config()), rlscan.envs.GymnaxEnvironment)


def test_a_config_with_wrappers_round_trips(tmp_path: Any) -> None:
    config = Config(env=EnvConfig(observe=(0, 2), frame_stack=2))
    assert to_dict(config)["env"]["observe"] == [0, 2]
    assert from_dict(to_dict(config)) == config
    old = to_dict(Config())
    for group, key in [
        ("env", "observe"),
        ("env", "frame_stack"),
        ("env", "last_action_reward"),
        ("policy", "normalize_observations"),
        ("ppo", "scale_rewards"),
    ]:
        del old[group][key]  # as earlier versions wrote it
    assert from_dict(old) == Config()


@pytest.mark.parametrize(
    "options, message",
    [
        ("--env.observe []", "env.observe must be different indices of an observation, from 0, "),
        ("--env.observe [0,0]", "env.observe must be different indices"),
        ("--env.observe [-1]", "env.observe must be different indices"),
        ("--env.observe x", "env.observe must be a list of integers"),
        ("--env.frame_stack 0", "env.frame_stack must be a positive integer, got 0"),
        ("--ppo.scale_rewards 3", "ppo.scale_rewards must be true or false"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(options: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("[", r"\[")) as error:
        parse(options.split())
    assert "\n" not in str(error.value)


def test_indices_that_the_environment_does_not_have_are_refused_when_it_is_built() -> None:
    config = Config(env=EnvConfig(observe=(0, 7)))
    check(config)
    with pytest.raises(ValueError, match=r"^env.observe must be .* from 0 to 3, got \[0, 7\]"):
        build_env(config)


@pytest.mark.slow
def test_a_policy_of_a_config_fits_a_stack_and_is_read_back_from_a_file(tmp_path: Any) -> None:
    config = Config(env=EnvConfig(observe=(0, 2), frame_stack=2))
    env = build_env(config)
    policy = build_policy(config, env, key=rlscan.key(0))
    rlscan.check_policy(policy, env)
    save_policy(tmp_path / "policy.eqx", policy, config)
    assert eqx.tree_equal(rlscan.load_policy(tmp_path / "policy.eqx", inference=False), policy)


def test_a_mask_of_any_space_is_not_stacked():
    parts = {"observation": Box(-1, 1, (2,), jnp.float32), "action_mask": gymnasium.MultiBinary(3)}

    class Masked(rlscan.envs.Wrapper):
        def observation_space(self) -> Nested:
            return Nested(parts)

    space = rlscan.envs.FrameStack(Masked(probes.Wander()), 2).observation_space()
    stacked: Any = parts_of(space)
    assert stacked["action_mask"] is parts["action_mask"]
    assert stacked["observation"].shape == (4,)


class Seen(NamedTuple):
    at: Any
    action_mask: Any


class Named(rlscan.envs.Wrapper):
    """Observations in a NamedTuple. Only action 0 is legal."""

    def reset(self, key: Any) -> tuple:
        observation, state = self.env.reset(key)
        return Seen(observation, jnp.arange(3) < 1), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        observation, state, reward, *flags, info = self.env.step(key, state, action)
        mask = jnp.arange(3) < 1
        last = {"final_observation": Seen(info["final_observation"], mask)}
        return Seen(observation, mask), state, reward, *flags, last

    def observation_space(self) -> Any:
        return Seen(self.env.observation_space(), Box(0, 1, (3,)))


@pytest.mark.slow
def test_the_mask_of_a_named_tuple_is_obeyed() -> None:
    env = rlscan.envs.LastActionReward(rlscan.envs.FrameStack(Named(probes.Wander()), 2))
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=[4], key=rlscan.key(0))
    rlscan.check_policy(policy, env)
    with jax.disable_jit():
        observation, _ = env.reset(jax.random.key(1))
        distribution: Any = policy(observation, (), key=jax.random.key(2))[0]
    np.testing.assert_array_equal(distribution.probs, [1, 0, 0])


def test_undeclared_entries_of_a_dict_are_not_stacked() -> None:
    class Undeclared(rlscan.envs.Wrapper):
        def reset(self, key: Any) -> tuple:
            observation, state = self.env.reset(key)
            return {"seen": observation, "beside": jnp.asarray(5)}, state

        def observation_space(self) -> Nested:
            return Nested({"seen": self.env.observation_space()})

    observation, _ = rlscan.envs.FrameStack(Undeclared(probes.Wander()), 2).reset(jax.random.key(0))
    assert observation["seen"].shape == (8,) and observation["beside"] == 5


# A wrapper of your own.


class ScaledReward(rlscan.envs.Wrapper):
    """The example in the docstring of `Wrapper`."""

    scale: float = 10.0

    def step(self, key: Any, state: Any, action: Any) -> Any:
        observation, state, reward, *rest = self.env.step(key, state, action)
        return observation, state, reward / self.scale, *rest


@pytest.mark.slow
def test_a_wrapper_changes_only_what_it_overrides() -> None:
    inner = probes.Wander()
    wrapper = ScaledReward(inner, scale=4.0)
    assert isinstance(wrapper, rlscan.Environment)
    seen, last, dones = follow(inner, one_action)
    wrapped_seen, wrapped_last, wrapped_dones = follow(wrapper, one_action)
    assert_equal(wrapped_seen, seen)
    assert wrapped_dones == dones
    for (final, _, reward), (wrapped_final, _, wrapped_reward) in zip(
        last, wrapped_last, strict=True
    ):
        assert_equal(wrapped_final, final)
        np.testing.assert_allclose(wrapped_reward, reward / 4, rtol=1e-6)
    assert wrapper.time_limit == inner.time_limit == 7
    assert wrapper.action_space() == inner.action_space()
    assert wrapper.observation_space() == inner.observation_space()


def test_an_environment_without_a_time_limit_stays_without_one() -> None:
    class Endless(eqx.Module):
        def reset(self, key: Any) -> Any: ...
        def step(self, key: Any, state: Any, action: Any) -> Any: ...
        def observation_space(self) -> Any: ...
        def action_space(self) -> Any: ...

    assert rlscan.envs.Wrapper(Endless()).time_limit is None


@pytest.mark.slow
def test_a_users_own_wrapper_is_rolled_out_and_replayed() -> None:
    env = ScaledReward(rlscan.envs.FrameStack(probes.Wander(), 2))
    policy = probes.dropout_policy(num_inputs=8)
    rlscan.check_policy(policy, env)
    state = rlscan.init_rollout(policy, env, num_envs=4, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 16)
    _, plain = eqx.filter_jit(rlscan.rollout)(policy, env.env, state, 16)
    log_prob, _, _ = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    np.testing.assert_allclose(trajectory.reward, plain.reward / 10, rtol=1e-6)
