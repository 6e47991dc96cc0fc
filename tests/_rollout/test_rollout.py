"""The rollout against a plain Python loop; its keys, slots and compiled program."""

import dataclasses
import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan import init_rollout, rollout

N, T = 3, 24


@eqx.filter_jit
def start_and_roll(policy, env, key, num_envs=N, num_steps=T):
    state = init_rollout(policy, env, num_envs=num_envs, key=key)
    return state, *rollout(policy, env, state, num_steps)


def assert_equal_trees(a, b, **tolerance):
    """Compare keys and integers exactly, and floats up to the rounding of different programs."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if eqx.is_inexact_array(x):
            np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})
        elif jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(x), jax.random.key_data(y))
        else:
            np.testing.assert_array_equal(x, y)


# The reference: one environment, one step at a time, in plain Python.


def python_loops(policy, env, state, num_steps):
    """Collect the rows of each environment's steps, with the same keys."""

    @jax.jit
    def act(observation, policy_state, policy_key, action_key):
        distribution, value, policy_state = policy(observation, policy_state, key=policy_key)
        action = distribution.sample(seed=action_key)
        return action, distribution.log_prob(action), value, policy_state

    step, num_envs = jax.jit(env.step), len(state.key)
    environments = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(num_envs)]
    return [_python_loop(policy, env, one, num_steps, act, step) for one in environments]


def _python_loop(policy, env, one, num_steps, act, step):
    stream, noise_key, policy_key = one.key, one.noise_key, one.policy_key
    observation, env_state, policy_state = one.observation, one.env_state, one.policy_state
    episode_return, episode_length, rows = 0.0, 0, []
    for _ in range(num_steps):
        stream, action_key, env_key = jax.random.split(stream, 3)
        noise_key, next_policy_key = jax.random.split(noise_key)
        action, log_prob, value, policy_state = act(
            observation, policy_state, policy_key, action_key
        )
        space = env.action_space()
        sent = jnp.clip(action, space.low, space.high) if hasattr(space, "low") else action
        new_observation, env_state, reward, terminated, truncated, info = step(
            env_key, env_state, sent
        )
        episode_return, episode_length = episode_return + float(reward), episode_length + 1
        rows.append(
            {
                "observation": observation,
                "action": action,
                "log_prob": log_prob,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "episode_return": episode_return,
                "episode_length": episode_length,
                "policy_key": jax.random.key_data(policy_key),
                "value": value,
                "final_observation": info["final_observation"],
                "policy_state_after": policy_state,
            }
        )
        if terminated or truncated:
            policy_state = policy.initial_state()
            episode_return, episode_length = 0.0, 0
        observation, policy_key = new_observation, next_policy_key
    return rows


CASES = {
    "dropout": (probes.dropout_policy(), probes.Wander()),
    "recurrent": (probes.Recurrent(), probes.Wander()),
    "continuous": (probes.gaussian_dropout_policy(), probes.Wander(is_continuous=True)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    policy, env = CASES[request.param]
    before, after, trajectory = start_and_roll(policy, env, rlscan.key(0))
    return policy, before, after, trajectory, python_loops(policy, env, before, T)


def test_a_rollout_is_a_python_loop(case):
    _, _, _, trajectory, loops = case
    ends = np.asarray(trajectory.terminated | trajectory.truncated)
    assert trajectory.terminated.sum() > 1 and trajectory.truncated.sum() > 1
    assert ends.any(axis=0).all()  # every environment was reset at least once
    names = ["observation", "action", "log_prob", "reward", "terminated", "truncated"]
    for name in [*names, "episode_return", "episode_length"]:
        expected = np.stack([[row[name] for row in rows] for rows in loops], axis=1)
        np.testing.assert_allclose(
            getattr(trajectory, name), expected, rtol=1e-5, atol=1e-5, err_msg=name
        )
    keys = np.stack([[row["policy_key"] for row in rows] for rows in loops], axis=1)
    np.testing.assert_array_equal(jax.random.key_data(trajectory.policy_key), keys)


def test_a_recurrent_policys_values_and_states_are_recorded(case):
    policy, before, after, trajectory, loops = case
    if not jax.tree.leaves(policy.initial_state()):
        assert trajectory.value is None and trajectory.initial_policy_state == ()
        return
    expected = np.stack([[row["value"] for row in rows] for rows in loops], axis=1)
    np.testing.assert_allclose(trajectory.value, expected, atol=1e-5)
    assert trajectory.initial_policy_state.shape == (1, N, 16)
    np.testing.assert_array_equal(trajectory.initial_policy_state[0], before.policy_state)
    for i, rows in enumerate(loops):
        ended = rows[-1]["terminated"] or rows[-1]["truncated"]
        carried = policy.initial_state() if ended else rows[-1]["policy_state_after"]
        np.testing.assert_allclose(after.policy_state[i], carried, atol=1e-5)


def test_final_slots_hold_the_final_observations(case):
    _, _, _, trajectory, loops = case
    final = trajectory.final
    assert final.step.shape == (math.ceil(T / 7), N)
    for i, rows in enumerate(loops):
        cut = [t for t, row in enumerate(rows) if row["truncated"] and not row["terminated"]]
        used = [k for k in range(len(final.step)) if final.step[k, i] < T]
        assert cut == [int(final.step[k, i]) for k in used]
        for t, k in zip(cut, used, strict=True):
            np.testing.assert_allclose(
                final.observation[k, i], rows[t]["final_observation"], atol=1e-5
            )
            np.testing.assert_array_equal(
                jax.random.key_data(final.policy_key[k, i]), rows[t]["policy_key"]
            )
            assert_equal_trees(
                jax.tree.map(lambda leaf, k=k, i=i: leaf[k, i], final.policy_state),
                rows[t]["policy_state_after"],
            )


def test_the_final_observation_is_not_the_one_after_the_reset(case):
    """Otherwise the test above would pass for a rollout that keeps the wrong one."""
    _, _, _, _, loops = case
    ends = [
        (row["final_observation"], following["observation"])
        for rows in loops
        for row, following in zip(rows, rows[1:], strict=False)
        if row["truncated"]
    ]
    assert all(np.abs(last - new).max() > 1e-2 for last, new in ends) and ends


@pytest.fixture(scope="module")
def roll():
    """A jitted rollout that fails if it is traced twice, for example for a weak `time = 0`."""
    return eqx.filter_jit(eqx.debug.assert_max_traces(rollout, max_traces=1))


@pytest.mark.slow
def test_two_rollouts_equal_one_of_twice_the_length(roll):
    """The second rollout does not retrace."""
    policy, env = CASES["recurrent"]
    before, after, trajectory = start_and_roll(policy, env, rlscan.key(0))
    middle, first = roll(policy, env, before, T // 2)
    end, second = roll(policy, env, middle, T // 2)
    roll(policy, env, end, T // 2)
    joined = jax.tree.map(lambda *halves: jnp.concatenate(halves), first, second)
    whole = dataclasses.replace(trajectory, initial_policy_state=None, final=None)
    joined = dataclasses.replace(joined, initial_policy_state=None, final=None)
    # The episode's return and the recurrent state continue across the boundary.
    assert_equal_trees((end, joined), (after, whole), rtol=0, atol=0)


@pytest.mark.slow
def test_an_environment_does_not_depend_on_how_many_there_are():
    policy, env = CASES["dropout"]
    _, _, few = start_and_roll(policy, env, rlscan.key(0))
    _, _, many = start_and_roll(policy, env, rlscan.key(0), 5)
    assert_equal_trees(few, jax.tree.map(lambda leaf: leaf[:, :N], many))
    assert not np.allclose(many.observation[:, 1], many.observation[:, 2])


# Keys and masks.


def test_no_key_is_used_twice(case):
    policy, before, after, trajectory, _ = case
    policy_keys = jax.random.key_data(trajectory.policy_key).reshape(T * N, -1)
    streams, key = [], before.key
    for _ in range(T):
        key, action_key, env_key, _ = jnp.moveaxis(
            jax.vmap(lambda k: jax.random.split(k, 4))(key), 1, 0
        )
        streams += [action_key, env_key]
    others = [np.asarray(jax.random.key_data(k)) for k in [*streams, before.key, after.key]]
    every = np.concatenate([policy_keys, jax.random.key_data(after.policy_key), *others])
    assert len(np.unique(every, axis=0)) == len(every)


@pytest.fixture(scope="module")
def masks():
    """Masks `[update, T, N, layer, unit]` recorded in the scan: over a million bits."""
    policy, env = probes.Masks(0.3, is_recurrent=True), probes.leak
    state, values = init_rollout(policy, env, num_envs=128, key=rlscan.key(3)), []
    roll = eqx.filter_jit(rollout)
    for _ in range(2):
        state, trajectory = roll(policy, env, state, 64)
        values.append(jnp.stack(trajectory.value, axis=2))
    return np.stack(values)


def test_keep_rate_is_binomial(masks):
    n, p = masks.size, 0.7
    assert n >= 1_000_000
    assert abs(masks.mean() - p) < 4.5 * math.sqrt(p * (1 - p) / n)
    # It also holds for every unit, step and environment.
    for axes in [(0, 1, 2, 3), (0, 2, 3, 4), (0, 1, 3, 4)]:
        rates = masks.mean(axis=axes)
        deviations = np.abs(rates - p) / math.sqrt(p * (1 - p) / (n / rates.size))
        assert deviations.max() < 5


@pytest.mark.parametrize("axis", ["update", "step", "environment", "layer", "unit"])
def test_masks_are_not_correlated(masks, axis):
    """A frozen or shared mask would have a correlation of 1 between steps or environments."""
    where = ["update", "step", "environment", "layer", "unit"].index(axis)
    rows = np.moveaxis(masks, where, 0).reshape(masks.shape[where], -1).astype(np.float32)
    correlation = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.abs(correlation).max() < 6 / math.sqrt(rows.shape[1])


def test_no_mask_repeats(masks):
    flat = masks.reshape(-1, masks.shape[-1])
    assert len(np.unique(flat, axis=0)) == len(flat)


# The program.


class CriticOfWidth37(eqx.Module):
    actor: eqx.nn.Linear
    hidden: eqx.nn.Linear
    critic: eqx.nn.Linear
    is_recurrent: bool = eqx.field(static=True)

    def __call__(self, observation, state, *, key):
        import distrax

        value = self.critic(jnp.tanh(self.hidden(observation)))[0]
        return distrax.Categorical(logits=self.actor(observation)), value, state

    def initial_state(self):
        return jnp.zeros(()) if self.is_recurrent else ()


@pytest.mark.slow
@pytest.mark.parametrize("is_recurrent", [False, True])
def test_the_critic_of_a_feedforward_policy_is_dead_code(is_recurrent):
    keys = jax.random.split(jax.random.key(0), 3)
    policy = CriticOfWidth37(
        eqx.nn.Linear(4, 3, key=keys[0]),
        eqx.nn.Linear(4, 37, key=keys[1]),
        eqx.nn.Linear(37, 1, key=keys[2]),
        is_recurrent,
    )
    env = probes.Wander()
    state = init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    roll: Any = eqx.filter_jit(rollout)
    program = roll.lower(policy, env, state, 8).compile().compiled.as_text()
    matmuls = re.findall(r"= .* (?:dot|custom-call)\(.*", program)
    # A recurrent policy's values are recorded, so its critic must be in the program.
    assert len(matmuls) == (3 if is_recurrent else 1)
    assert ("37" in "".join(re.findall(r"f32\[([\d,]*)\]", program))) == is_recurrent


def test_it_runs_without_jit():
    policy, env = CASES["dropout"]
    before, after, trajectory = start_and_roll(policy, env, rlscan.key(0))
    assert_equal_trees(rollout(policy, env, before, T), (after, trajectory))


@pytest.mark.slow
def test_mapped_over_seeds():
    policy, env = CASES["dropout"]
    keys = jax.random.split(rlscan.key(5), 2)

    @eqx.filter_jit
    @eqx.filter_vmap
    def seeds(key):
        state = init_rollout(policy, env, num_envs=N, key=key)
        return state, *rollout(policy, env, state, T)

    mapped = seeds(keys)
    for i, key in enumerate(keys):
        expected = start_and_roll(policy, env, key)
        assert_equal_trees(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), expected)


# Actions, observations and rewards.


def test_the_sampled_action_is_recorded_and_the_legal_one_is_sent():
    """The environment's reward is the action it received, in thousandths, as an integer."""
    policy = probes.OneNumber(jnp.zeros(()))
    _, _, trajectory = start_and_roll(policy, probes.WhatWasSent(), rlscan.key(0), 8)
    sampled = np.asarray(trajectory.action, np.float64)[..., 0]
    outside = np.abs(sampled) > 0.5
    assert 0.3 < outside.mean() < 0.9
    assert trajectory.reward.dtype == jnp.float32
    np.testing.assert_allclose(trajectory.reward, 1000 * np.clip(sampled, -0.5, 0.5), atol=0.51)
    at, count = trajectory.observation["at"], trajectory.observation["count"]
    mean = 0.01 * (np.asarray(at, np.float64).sum(-1) + np.asarray(count))
    log_prob = -0.5 * (sampled - mean) ** 2 - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(trajectory.log_prob, log_prob, atol=1e-5)


def test_observations_are_pytrees():
    env, policy = probes.WhatWasSent(), probes.OneNumber(jnp.zeros(()))
    before, after, trajectory = start_and_roll(policy, env, rlscan.key(0), 8)
    assert trajectory.observation["at"].shape == (T, 8, 2)
    assert trajectory.observation["count"].shape == (T, 8)
    np.testing.assert_array_equal(
        trajectory.observation["count"], np.tile(np.arange(T)[:, None] % 3, (1, 8))
    )
    # The reset's count is a Python number; in the state it is an array, as `step` returns it.
    assert before.env_state["count"].dtype == after.env_state["count"].dtype == jnp.int32
    assert before.env_state["sum"].dtype == after.env_state["sum"].dtype == jnp.float32
    assert before.episode_length.dtype == after.episode_length.dtype == jnp.int32


def roll_probe(env, num_steps=12) -> Any:
    policy = probes.Coin(jnp.zeros(()), jnp.ones(()))
    return policy, *start_and_roll(policy, env, rlscan.key(0), 2, num_steps)


def probe_with(time_limit):
    return dataclasses.replace(probes.truncation, time_limit=time_limit)


@pytest.mark.parametrize("time_limit, used", [(5, [4, 9, 12]), (99, [9])])
def test_slots_by_the_declared_time_limit(time_limit, used):
    """There are ⌈12 / L⌉ slots. The second environment declares too long a limit and loses one."""
    _, _, _, trajectory = roll_probe(probe_with(time_limit))
    np.testing.assert_array_equal(trajectory.final.step, np.transpose([used, used]))


def test_without_a_time_limit_there_is_a_slot_per_step():
    _, _, _, trajectory = roll_probe(probe_with(None))
    expected = np.where(np.isin(np.arange(12), [4, 9]), np.arange(12), 12)
    np.testing.assert_array_equal(trajectory.final.step, np.transpose([expected, expected]))


@pytest.mark.parametrize("declared, used", [(1, [4]), (3, [4, 9, 12]), (99, [4, 9] + [12] * 10)])
def test_declared_slots_are_filled_in_order(declared, used):
    """A rollout of 12 steps is truncated after steps 4 and 9."""

    class Declared(rlscan.envs.Wrapper):
        @property
        def final_slots(self):
            return declared

    env = Declared(probe_with(None))
    policy, _, after, trajectory = roll_probe(env)
    np.testing.assert_array_equal(trajectory.final.step, np.transpose([used, used]))
    following = rlscan.next_value(policy, after, trajectory, jnp.ones((12, 2)))
    is_lost = np.argwhere(np.isnan(following[:, 0]))[:, 0].tolist()
    assert is_lost == ([9] if declared == 1 else [])


@pytest.mark.slow
def test_a_lost_truncation_is_nan_and_never_a_wrong_value():
    """The declared limit is 6 steps, but episodes are cut at 5, so finally two share a slot."""
    policy, _, after, trajectory = roll_probe(probe_with(6), 30)
    value = jnp.ones((30, 2))
    following = rlscan.next_value(policy, after, trajectory, value)
    np.testing.assert_array_equal(np.argwhere(trajectory.truncated[:, 0])[:, 0], range(4, 30, 5))
    # The slots cover steps 0–5, 6–11, 12–17, 18–23 and 24–29. The last has cuts at 24 and 29.
    np.testing.assert_array_equal(np.argwhere(np.isnan(following[:, 0]))[:, 0], [24])
    assert (np.delete(following, 24, axis=0) == 1).all()


@pytest.mark.slow
def test_termination_wins_if_both_flags_are_set():
    policy, _, after, trajectory = roll_probe(probes.both_flags)
    assert (trajectory.terminated[1::2] & trajectory.truncated[1::2]).all()
    assert (trajectory.final.step == 12).all()  # no slot is used, so nothing is bootstrapped
    following = rlscan.next_value(policy, after, trajectory, jnp.ones((12, 2)))
    assert np.isfinite(following).all()
    np.testing.assert_array_equal(trajectory.episode_length[:4, 0], [1, 2, 1, 2])


# Valid and invalid keys and numbers.


@pytest.mark.parametrize("impl", ["threefry2x32", "philox4x32", rlscan.random.mix32], ids=str)
def test_the_generator_of_a_key_is_kept(impl):
    policy, env = probes.Coin(jnp.zeros(()), jnp.zeros(())), probes.leak
    key = jax.random.key(0, impl=impl)
    _, after, trajectory = eqx.filter_eval_shape(start_and_roll, policy, env, key)
    for keys in (after.key, after.policy_key, trajectory.policy_key, trajectory.final.policy_key):
        assert keys.dtype == key.dtype


def test_raw_keys_are_wrapped():
    policy, env = probes.Coin(jnp.zeros(()), jnp.zeros(())), probes.leak
    raw = init_rollout(policy, env, num_envs=2, key=jax.random.PRNGKey(7))
    typed = init_rollout(policy, env, num_envs=2, key=jax.random.key(7))
    assert_equal_trees(raw, typed)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "philox2x32"])
def test_keys_that_cannot_be_replayed_are_refused(impl):
    policy = probes.Coin(jnp.zeros(()), jnp.zeros(()))
    with pytest.raises(ValueError, match=rf"{impl}.*cannot be replayed.*rlscan.key"):
        init_rollout(policy, probes.leak, num_envs=2, key=jax.random.key(0, impl=impl))


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "4", None])
def test_bad_counts_are_refused(number):
    policy, env = probes.Coin(jnp.zeros(()), jnp.zeros(())), probes.leak
    state = init_rollout(policy, env, num_envs=1, key=rlscan.key(0))
    for call, name in (
        (lambda: init_rollout(policy, env, num_envs=number, key=rlscan.key(0)), "num_envs"),
        (lambda: rollout(policy, env, state, number), "num_steps"),
    ):
        # The suite's type checks find a wrong type first.
        expected = ValueError if isinstance(number, int) else Exception
        with pytest.raises(expected, match=name):
            call()
