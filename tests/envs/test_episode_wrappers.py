"""Wrappers that change actions, rewards, ends and parameters, against steps made by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan.envs import (
    ActionRepeat,
    Box,
    ClipReward,
    Discrete,
    FlattenObservation,
    FrameStack,
    RandomizedParams,
    StickyActions,
    TimeLimit,
)
from rlscan.testing import check_environment


class Ticks(eqx.Module):
    """An environment that shows `(start, time, last action)`; a reward is the time.

    Episodes end after `length` steps: terminated if the start is even, truncated otherwise.
    """

    length: int = eqx.field(static=True, default=5)
    time_limit: int | None = eqx.field(static=True, default=None)

    def reset(self, key: Any) -> tuple:
        state = jax.random.randint(key, (), 0, 1000), jnp.zeros((), jnp.int32), jnp.zeros((), int)
        return self.show(jnp.stack(state)), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        start, time, _ = state
        after = start, time + 1, jnp.asarray(action, int)
        over = time + 1 >= self.length
        ends = over & (start % 2 == 0), over & (start % 2 == 1)
        seen, reward = self.show(jnp.stack(after)), (time + 1).astype(jnp.float32)
        return probes.finish(self, key, seen, after, reward, ends)

    def show(self, seen: Any) -> Any:
        return seen

    def observation_space(self) -> Box:
        return Box(0, 1000, (3,), jnp.int32)

    def action_space(self) -> Discrete:
        return Discrete(1000)


def play(env: Any, num_steps: int, seed: int = 0) -> list[tuple]:
    """Play with the actions 1, 2, 3, …: `(observation before, (reward, ends), final, after)`."""
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    keys = jax.random.split(jax.random.key(seed), num_steps + 1)
    before, state = reset(keys[0])
    rows = []
    for t in range(num_steps):
        after, state, reward, terminated, truncated, info = step(
            keys[t + 1], state, jnp.asarray(t + 1)
        )
        outcome = float(reward), bool(terminated), bool(truncated)
        rows.append(jax.device_get((before, outcome, info["final_observation"], after)))
        before = after
    return rows


# Time limits.


@pytest.mark.parametrize("limit", [3, 5, 9])
def test_a_time_limit_truncates_and_starts_a_new_episode(limit: int) -> None:
    rows = play(TimeLimit(Ticks(), limit), 60)
    is_odd = 0
    for before, (_, terminated, truncated), final, after in rows:
        start, time = before[0], before[1] + 1
        assert (final[0], final[1]) == (start, time)
        ends_itself = time == 5
        assert terminated == (ends_itself and start % 2 == 0)  # it wins over the limit
        assert truncated == ((time == limit or ends_itself) and not terminated)
        assert after[1] == (0 if terminated | truncated else time)
        assert (after[0] != start) == (terminated | truncated)
        is_odd += truncated
    assert 3 < is_odd <= 60 // min(limit, 5)


def test_a_time_limit_is_declared_if_no_truncation_can_come_earlier() -> None:
    assert TimeLimit(Ticks(time_limit=5), 9).time_limit == 5
    assert TimeLimit(Ticks(time_limit=5), 3).time_limit == 3
    assert TimeLimit(Ticks(), 3).time_limit is None
    assert TimeLimit(Ticks(), 3, never_truncated=True).time_limit == 3
    with pytest.raises(ValueError, match="num_steps must be a positive integer, got 0"):
        TimeLimit(Ticks(), 0)


def test_a_start_after_a_cut_is_drawn_from_the_key_of_the_step() -> None:
    env = TimeLimit(probes.Wander(limit=99, time_limit=None, end_above=2.0), 4)
    seen = check_environment(env, num_steps=40)
    assert seen.num_truncated > 8


# Actions.


def test_an_action_is_repeated_until_the_episode_ends() -> None:
    """Episodes of 5 steps are one repetition of 3 and one of 2."""
    env = ActionRepeat(Ticks(time_limit=5), 3)
    assert env.time_limit == 2
    rows, ends = play(env, 24), 0
    for t, (before, (reward, terminated, truncated), final, after) in enumerate(rows):
        start, time = before[0], before[1]
        last = min(time + 3, 5)
        assert reward == sum(range(time + 1, last + 1))
        assert tuple(final) == (start, last, t + 1)
        assert (terminated, truncated) == (last == 5 and start % 2 == 0, last == 5 and start % 2)
        assert after[1] == (0 if last == 5 else last)
        ends += terminated
    assert 0 < ends < 12
    with pytest.raises(ValueError, match="num_repeats must be a positive integer, got 0"):
        ActionRepeat(Ticks(), 0)


def test_one_repetition_is_the_environment_itself() -> None:
    assert check_environment(ActionRepeat(probes.Wander(), 1), num_steps=40).num_terminated


def test_sticky_actions_repeat_the_action_that_was_taken() -> None:
    env, repeated, steps = StickyActions(Ticks(length=8), 0.4), 0, 0
    for t, (before, _, final, _) in enumerate(play(env, 400)):
        taken = final[2]
        if before[1] == 0:
            assert taken == t + 1  # there is no action yet
            continue
        assert taken in (t + 1, before[2])
        repeated, steps = repeated + (taken == before[2]), steps + 1
    assert abs(repeated / steps - 0.4) < 4 * np.sqrt(0.4 * 0.6 / steps)


def test_sticky_actions_follow_the_contract() -> None:
    env = StickyActions(probes.Wander(is_continuous=True), 0.5)
    assert check_environment(env, num_steps=40).num_truncated
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\), got 1.5"):
        StickyActions(Ticks(), 1.5)


# Rewards and observations.


def test_rewards_are_clipped() -> None:
    rewards = [row[1][0] for row in play(ClipReward(Ticks(), -1, 2.5), 5)]
    assert rewards == [1.0, 2.0, 2.5, 2.5, 2.5]
    for low, high in ((1, 1), (2, 1)):
        with pytest.raises(ValueError, match="low and high must be two numbers"):
            ClipReward(Ticks(), low, high)


class Pixels(Ticks):
    """An image of bytes, perhaps with a mask."""

    masked: bool = eqx.field(static=True, default=False)

    def show(self, seen: Any) -> Any:
        image = jnp.broadcast_to(seen[1].astype(jnp.uint8), (2, 2, 1))
        return {"image": image, "action_mask": jnp.arange(4) < 2} if self.masked else image

    def observation_space(self) -> Any:
        image = Box(0, 255, (2, 2, 1), jnp.uint8)
        return {"image": image, "action_mask": Box(0, 1, (4,), bool)} if self.masked else image

    def action_space(self) -> Discrete:
        return Discrete(4)


def test_bytes_stay_bytes() -> None:
    env = FrameStack(Pixels(), 3)
    assert env.observation_space().dtype == jnp.uint8
    for before, _, final, after in play(env, 12):
        assert before.dtype == final.dtype == after.dtype == np.uint8
        time = int(before[0, 0, -1])
        assert final[0, 0].tolist() == [max(time - 1, 0), time, time + 1]
    flat = FlattenObservation(Pixels())
    assert flat.observation_space().dtype == jnp.uint8
    assert jax.eval_shape(flat.reset, jax.random.key(0))[0].dtype == jnp.uint8
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(8,), key=rlscan.key(0))
    # 12 pixels, an action and a key; a slot for each of the 4 steps has pixels, a key and a time.
    assert rlscan.transition_bytes(policy, env, 4) == 12 + 4 + 8 + 18 + (12 + 8 + 4)


def test_a_flat_observation_keeps_its_mask() -> None:
    env = FlattenObservation(Pixels(masked=True))
    space = env.observation_space().spaces
    assert space["observation"].shape == (4,) and space["action_mask"].shape == (4,)
    for before, _, final, _ in play(env, 12):
        assert final["observation"].tolist() == [before["observation"][0] + 1] * 4
        assert final["action_mask"].tolist() == [True, True, False, False]


class Parts(Ticks):
    """A dict with a tuple of an integer and a number in it."""

    def show(self, seen: Any) -> Any:
        return {"b": (seen[1], seen[0] / 10), "a": jnp.stack([seen[1], seen[1]])}

    def observation_space(self) -> Any:
        return {"b": (Discrete(6), Box(0, 100)), "a": Box(0, 5, (2,), jnp.int32)}


def test_parts_are_joined_and_integers_one_hot() -> None:
    env = FlattenObservation(Parts())
    space = env.observation_space()
    assert (space.shape, space.dtype) == ((9,), jnp.float32)
    np.testing.assert_array_equal(space.high, [5, 5, *[1] * 6, 100])
    for before, _, final, _ in play(env, 12):
        for seen in (before, final):
            time = int(seen[0])
            np.testing.assert_array_equal(seen[:8], [time, time, *np.eye(6)[time]])
    assert check_environment(FlattenObservation(Parts(time_limit=5)), num_steps=40).num_truncated


def test_a_space_that_cannot_be_flattened_is_refused() -> None:
    class Odd(Ticks):
        def observation_space(self) -> Any:
            return {"a": object()}

    with pytest.raises(ValueError, match="flattens a Box, a Discrete, .*, got <object"):
        FlattenObservation(Odd())


# Parameters.


def pendulum() -> RandomizedParams:
    return RandomizedParams(rlscan.make("Pendulum-v1", max_steps_in_episode=4), {"g": (5.0, 15.0)})


def test_each_episode_of_each_environment_has_its_own_parameters() -> None:
    env = pendulum()
    assert env.time_limit == 4
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    _, state = reset(jax.random.split(jax.random.key(0), 6))
    seen = []
    for t in range(12):
        keys = jax.random.split(jax.random.key(t + 1), 6)
        seen.append([x for x in state.drawn if x is not None][0])
        _, state, *_ = step(keys, state, jnp.zeros((6, 1)))
    drawn = np.stack(seen)  # [12, 6]
    assert (drawn >= 5).all() and (drawn <= 15).all()
    assert len(np.unique(drawn)) == 3 * 6
    assert (drawn[:4] == drawn[0]).all() and (drawn[4:8] == drawn[4]).all()


def test_drawn_parameters_are_those_of_the_dynamics() -> None:
    env, key = pendulum(), jax.random.key(3)
    _, state = env.reset(key)
    (gravity,) = (x for x in state.drawn if x is not None)
    plain = rlscan.make("Pendulum-v1", g=float(gravity), max_steps_in_episode=4)
    step_key, _ = jax.random.split(key)
    got = env.step(key, state, jnp.ones(1))
    wanted = plain.step(step_key, state.env_state, jnp.ones(1))
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-5)
    other = rlscan.make("Pendulum-v1", max_steps_in_episode=4).step(
        step_key, state.env_state, jnp.ones(1)
    )
    assert abs(other[0] - wanted[0]).max() > 1e-3


class Scaled(Ticks):
    """The same, with a reward that is scaled by a leaf, which may be missing."""

    scale: Any = None

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        seen, state, reward, *rest = super().step(key, state, action)
        return seen, state, reward * (1 if self.scale is None else self.scale), *rest


def test_a_function_randomizes_any_environment() -> None:
    """It may add leaves. The episode keeps them until its end."""

    def randomize(key: Any, env: Any) -> Any:
        return Scaled(scale=jax.random.uniform(key, (), minval=1, maxval=2))

    scales = [
        reward / (before[1] + 1)
        for before, (reward, *_), *_ in play(RandomizedParams(Scaled(), randomize), 15)
    ]
    episodes = np.reshape(scales, (3, 5))
    np.testing.assert_allclose(episodes, episodes[:, :1].repeat(5, 1), rtol=1e-6)
    assert len(np.unique(episodes[:, 0])) == 3 and (episodes > 1).all()


@pytest.mark.parametrize(
    "params, told",
    [
        ({"gravity": (1, 2)}, "no parameter 'gravity'"),
        (
            {"g": (2, 1)},
            r"params\['g'\] must be an interval \(low, high\), low < high, got \(2, 1\)",
        ),
        ({"g": 9.8}, r"params\['g'\] must be an interval"),
        ({"max_steps_in_episode": (5, 9)}, "must be a parameter that is a number with a point"),
        ({}, "must have an interval at least"),
    ],
)
def test_parameters_that_cannot_be_drawn_are_refused(params: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RandomizedParams(rlscan.make("Pendulum-v1"), params)


# All of them.


@pytest.mark.slow
def test_a_rollout_of_all_is_replayed_and_independent_of_the_number() -> None:
    env = pendulum()
    env = ClipReward(StickyActions(ActionRepeat(TimeLimit(env, 3), 2), 0.3), -3, 0)
    env = FlattenObservation(FrameStack(env, 2))
    assert env.time_limit == 2
    policy = rlscan.policies.ActorCritic(env, dropout=0.5, hidden_sizes=(8,), key=rlscan.key(0))
    found = []
    for num_envs in (2, 3):
        state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=rlscan.key(1))
        state, trajectory = rlscan.rollout(policy, env, state, 6)
        found.append(jax.tree.map(lambda x: x[:, :2], trajectory))
    for one, other in zip(*map(jax.tree.leaves, map(jax.device_get, found)), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, atol=1e-5)
    log_prob, _, value = rlscan.replay(policy, trajectory)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    assert trajectory.truncated.sum() == 9
    assert np.isfinite(rlscan.next_value(policy, state, trajectory, value)).all()
