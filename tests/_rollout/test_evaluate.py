"""Evaluation: whole episodes, and three independent switches."""

import inspect
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan import evaluate
from rlscan._rollout.evaluate import with_noise

E = 8

jit_evaluate = eqx.filter_jit(evaluate)


def played(policy, env=None, **settings) -> Any:
    env = probes.Wander() if env is None else env
    settings = {"num_episodes": E, "key": rlscan.key(0), **settings}
    return jit_evaluate(policy, env, **settings)


def test_whole_episodes_against_a_python_loop():
    """The first episode of each environment equals a loop of single steps with the same keys."""
    policy, env = probes.dropout_policy(), probes.Wander()
    result = played(policy, network="train", key=rlscan.key(3))

    env_key, own_noise_key = jax.random.split(rlscan.key(3))
    noise_key, _ = jax.random.split(own_noise_key)
    state = rlscan.init_rollout(policy, env, num_envs=E, key=env_key, noise_key=noise_key)
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 7)
    done = np.asarray(trajectory.terminated | trajectory.truncated)
    assert done.any(axis=0).all()
    length = done.argmax(axis=0) + 1
    assert len(set(length.tolist())) > 1  # short and long episodes
    np.testing.assert_array_equal(result.episode_length, length)
    expected = [np.asarray(trajectory.reward)[:n, i].sum() for i, n in enumerate(length)]
    np.testing.assert_allclose(result.episode_return, expected, rtol=1e-5)
    assert result.finished.all() and result.spread is None


def test_a_cut_episode_is_not_finished():
    result = played(probes.dropout_policy(), max_steps=2)
    assert (result.episode_length <= 2).all()
    assert not result.finished.all()
    np.testing.assert_array_equal(result.finished | (result.episode_length == 2), True)


@pytest.mark.slow
@pytest.mark.parametrize("network, matters", [("train", True), ("inference", False)])
def test_the_noise_key_matters_only_with_noise(network, matters):
    policy = probes.dropout_policy()
    a, b, again = (
        played(policy, network=network, action="mode", noise_key=rlscan.key(seed))
        for seed in (1, 2, 1)
    )
    np.testing.assert_array_equal(a.episode_return, again.episode_return)
    assert bool((a.episode_return != b.episode_return).any()) == matters


@pytest.mark.parametrize("action, matters", [("sample", True), ("mode", False)])
def test_sampling_is_an_independent_switch(action, matters):
    """The environment's reward is the action, and it draws nothing itself."""
    policy = probes.OneNumber(jnp.asarray(0.2))
    a, b = (
        played(policy, probes.WhatWasSent(), action=action, key=rlscan.key(seed), max_steps=3)
        for seed in (1, 2)
    )
    assert bool((a.episode_return != b.episode_return).any()) == matters


@pytest.mark.slow
def test_a_policy_in_either_mode_is_evaluated_as_asked():
    """A policy from `load_policy` is in inference mode, but "train" has its noise nevertheless."""
    policy = probes.dropout_policy()
    quiet = eqx.nn.inference_mode(policy)
    for network in ("train", "inference"):
        a, b = played(policy, network=network), played(quiet, network=network)
        np.testing.assert_array_equal(a.episode_return, b.episode_return)


# Monte Carlo dropout.


@pytest.mark.slow
def test_the_spread_measures_k_networks():
    """In episodes of one step, it equals the spread of K masks computed by hand."""
    policy, num_masks = probes.dropout_policy(num_inputs=1, num_actions=2), 4
    result = played(
        policy, probes.observation_reward, network="mc-dropout", num_masks=num_masks, max_steps=1
    )
    env_key, own_noise_key = jax.random.split(rlscan.key(0))
    _, masks_key = jax.random.split(own_noise_key)
    masks = jax.random.split(masks_key, num_masks)
    reward = np.asarray(result.episode_return)  # equal to the observation, +1 or −1
    assert reward.shape == (num_masks, E // num_masks)
    for row in range(num_masks):
        for column in range(E // num_masks):
            seen = jnp.full(1, reward[row, column])
            said = [policy(seen, (), key=mask) for mask in masks]
            logits = np.stack([np.asarray(d.logits) for d, _, _ in said])
            values = np.stack([np.asarray(v) for _, v, _ in said])
            np.testing.assert_allclose(
                result.spread.distribution["logits"][row, column], logits.std(axis=0), atol=1e-5
            )
            np.testing.assert_allclose(result.spread.value[row, column], values.std(), atol=1e-5)
    np.testing.assert_allclose(result.spread.episode_return, reward.mean(axis=1).std(), rtol=1e-5)


class OfItsMask(eqx.Module):
    """A policy whose action is the first bit of its mask."""

    def __call__(self, observation, state, *, key):
        bit = jax.random.bits(key) & 1
        return distrax.Categorical(logits=9.0 * jax.nn.one_hot(bit, 2)), jnp.zeros(()), state

    def initial_state(self):
        return ()


def test_each_row_holds_the_episodes_of_one_network():
    """The reward is the action, so it is the same in all episodes of a row."""
    env = probes.Probe(lambda kind, time: 0.0, lambda kind, time, action: (action, True, False))
    settings = {"network": "mc-dropout", "num_masks": 4, "action": "mode", "max_steps": 1}
    returns = played(OfItsMask(), env, **settings).episode_return
    masks = jax.random.split(jax.random.split(jax.random.split(rlscan.key(0))[1])[1], 4)
    bits = [float(jax.random.bits(mask) & 1) for mask in masks]
    assert len(set(bits)) == 2
    np.testing.assert_array_equal(returns, np.stack([bits, bits], axis=1))


@pytest.mark.slow
def test_networks_without_noise_agree():
    result = played(probes.dropout_policy(rate=0.0), network="mc-dropout", num_masks=4)
    assert (result.spread.value == 0).all()
    assert (jax.tree.leaves(result.spread.distribution)[0] == 0).all()


@pytest.mark.slow
def test_each_network_of_a_recurrent_policy_has_its_own_memory():
    """The memories are equal without dropout and diverge with it."""
    for rate, disagree in ((0.0, False), (0.5, True)):
        result = played(probes.Recurrent(rate=rate), network="mc-dropout", num_masks=4)
        assert bool((result.spread.value > 1e-5).all()) == disagree
        assert result.spread.value.shape == (4, 2)


@pytest.mark.slow
def test_each_memory_is_carried_from_step_to_step():
    """In episodes of two steps with observations 0 and ½, compare with networks by hand."""
    policy, num_masks = probes.Recurrent(num_inputs=1, num_actions=2, rate=0.5), 3
    result = played(
        policy, probes.two_step, network="mc-dropout", num_masks=num_masks, num_episodes=3,
        max_steps=2,
    )  # fmt: skip
    _, own_noise_key = jax.random.split(rlscan.key(0))
    masks = jax.random.split(jax.random.split(own_noise_key)[1], num_masks)
    values = np.zeros((2, num_masks))
    for k, mask in enumerate(masks):
        state = policy.initial_state()
        for t, seen in enumerate((0.0, 0.5)):
            _, values[t, k], state = policy(jnp.full(1, seen), state, key=mask)
    expected = values.std(axis=1).mean()
    assert expected > 0.01
    np.testing.assert_allclose(result.spread.value, np.full((3, 1), expected), rtol=1e-4)


@pytest.mark.slow
def test_the_spread_of_a_gaussian():
    policy, env = probes.gaussian_dropout_policy(), probes.Wander(is_continuous=True)
    spread = played(policy, env, network="mc-dropout", num_masks=2, action="mode").spread
    assert spread.distribution["mean"].shape == (2, 4, 2)
    assert (spread.distribution["mean"] > 0).all() and (spread.distribution["stddev"] < 1e-6).all()


# In inference mode the program draws no random bits for dropout.


def count_draws(policy, env) -> int:
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    program = eqx.filter_make_jaxpr(lambda p, s: rlscan.rollout(p, env, s, 4))(policy, state)[0]
    return str(program).count("random_bits")


@pytest.mark.slow
def test_the_rollouts_program_draws_nothing_for_dropout_in_inference_mode():
    env = probes.Wander()
    policy = probes.dropout_policy()
    without, quiet = probes.dropout_policy(rate=0.0), eqx.nn.inference_mode(policy)
    assert count_draws(quiet, env) == count_draws(without, env) < count_draws(policy, env)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_episodes": 6, "network": "mc-dropout", "num_masks": 4}, "not divisible .* use 8"),
        ({"num_episodes": 0}, "num_episodes must be a positive integer"),
        ({"max_steps": 0}, "max_steps must be a positive integer"),
    ],
)
def test_invalid_numbers_are_refused(settings, message):
    settings = {"num_episodes": E, "key": rlscan.key(0), **settings}
    with pytest.raises(ValueError, match=message):
        evaluate(probes.dropout_policy(), probes.Wander(), **settings)


def test_an_environment_that_might_never_end_needs_max_steps():
    with pytest.raises(ValueError, match="no time_limit.* max_steps=1000"):
        evaluate(
            probes.dropout_policy(),
            probes.Wander(time_limit=None),
            num_episodes=1,
            key=rlscan.key(0),
        )


def test_a_layer_trained_without_noise_stays_without():
    policy = rlscan.policies.ActorCritic(rlscan.make("CartPole-v1"), dropout=0.5, key=rlscan.key(0))
    flags = lambda p: [  # noqa: E731
        x.inference for x in jax.tree.leaves(p, is_leaf=_has_flag) if _has_flag(x)
    ]
    partly = eqx.nn.inference_mode(policy)
    one = next(x for x in jax.tree.leaves(partly, is_leaf=_has_flag) if _has_flag(x))
    partly = eqx.tree_at(
        lambda p: next(x for x in jax.tree.leaves(p, is_leaf=_has_flag) if _has_flag(x)).inference,
        partly,
        not one.inference,
    )
    assert sorted(set(flags(partly))) == [False, True]
    assert flags(with_noise(partly)) == flags(partly)
    assert flags(with_noise(eqx.nn.inference_mode(policy))) == flags(policy)


def _has_flag(node: Any) -> bool:
    return hasattr(node, "inference")


def test_an_unknown_key_schedule_is_refused():
    with pytest.raises(ValueError, match="key_schedule must be one of step, episode, rollout"):
        inspect.unwrap(evaluate)(  # bypass the suite's type checks
            probes.dropout_policy(),
            probes.Wander(),
            num_episodes=1,
            key=rlscan.key(0),
            key_schedule="episodes",
        )
