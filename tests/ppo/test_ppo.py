"""PPO: exact ratios, updates against a loop by hand, and probes with known values."""

import dataclasses
import math
from functools import partial
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import probes
import pytest

import rlscan
from rlscan import (
    METRICS,
    PPOConfig,
    init_train,
    ppo_loss,
    replay,
    testing,
    train,
    train_scan,
    update,
)
from rlscan.ppo._config import check_config
from rlscan.ppo._losses import Minibatch
from rlscan.ppo._metrics import episode_metrics, episodes_of
from rlscan.ppo._train import _tolerance, _updates_in_a_call
from rlscan.ppo._update import shuffle as _shuffle

CONFIG = PPOConfig(
    num_envs=4,
    num_steps=16,
    num_epochs=2,
    num_minibatches=2,
    learning_rate=0.01,
    anneal_learning_rate=False,
)
NUM_UPDATES = 8

jit_rollout = eqx.filter_jit(rlscan.rollout)


def with_numbers(config, **numbers) -> Any:
    return dataclasses.replace(config, **numbers).as_arrays()


counted_update = eqx.debug.assert_max_traces(update, max_traces=None)


@pytest.fixture(scope="module")
def jit_update():
    """Compile one program for most of the tests below."""
    return eqx.filter_jit(counted_update)


def run(jit_update, config, num_updates=NUM_UPDATES, *, policy=None) -> Any:
    """Return `(states, metrics)`: the states before and after each update, and its metrics."""
    policy = probes.dropout_policy() if policy is None else policy
    states, metrics = [init_train(policy, probes.Wander(), config, key=rlscan.key(0))], []
    for _ in range(num_updates):
        state, row = jit_update(
            states[-1], probes.Wander(), config, num_updates=jnp.asarray(NUM_UPDATES)
        )
        states.append(state)
        metrics.append(row)
    return states, {name: np.stack([row[name] for row in metrics]) for name in metrics[0]}


def assert_close(a, b, tolerance=1e-6):
    a, b = (jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (a, b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def assert_same(a, b):
    for x, y in zip(*(jax.tree.leaves(eqx.filter(t, eqx.is_array)) for t in (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def long_run(jit_update):
    return run(jit_update, CONFIG.as_arrays())


# The ratio.


def test_the_ratio_is_1_at_the_start_of_every_update(long_run):
    _, metrics = long_run
    assert (metrics["audit_log_ratio"] <= 1e-5).all()
    assert (metrics["audit_clip_fraction"] == 0).all()
    # The policy did move, so a wrong replay would show.
    assert (metrics["approx_kl"] > 1e-4).all()


def test_with_other_masks_the_ratio_is_not_1(long_run):
    (*_, state), _ = long_run
    policy, env = state.policy, probes.Wander()
    _, trajectory = jit_rollout(policy, env, state.rollout_state, 16)
    fresh = jax.random.split(rlscan.key(9), trajectory.policy_key.shape)
    naive = dataclasses.replace(trajectory, policy_key=fresh)
    jit_replay = eqx.filter_jit(replay)
    assert np.abs(jit_replay(policy, naive)[0] - trajectory.log_prob).max() > 0.1
    assert np.abs(jit_replay(policy, trajectory)[0] - trajectory.log_prob).max() <= 1e-5


def test_nothing_moves_at_a_learning_rate_of_0(jit_update):
    (before, *_, after), metrics = run(jit_update, with_numbers(CONFIG, learning_rate=0.0), 2)
    assert_same(before.policy, after.policy)
    # k3 is never negative, so its mean over all epochs bounds that of each.
    assert (metrics["approx_kl"] <= 1e-10).all() and (metrics["clip_fraction"] == 0).all()
    assert (metrics["num_gradient_steps"] == 4).all()


@pytest.mark.slow
def test_one_program_for_all_numbers(jit_update):
    run(jit_update, CONFIG.as_arrays(), 2)
    num_traces = eqx.debug.get_num_traces(counted_update)
    for learning_rate in (1e-3, 2e-3, 3e-3):
        config = with_numbers(CONFIG, learning_rate=learning_rate, gamma=0.9, target_kl=0.5)
        _, metrics = run(jit_update, config, 1)
        assert metrics["learning_rate"] == np.float32(learning_rate)
    assert eqx.debug.get_num_traces(counted_update) == num_traces > 0


class ReplayedWith(eqx.Module):
    """The PPO loss with recorded keys, or with fresh ones as in most libraries."""

    is_fresh: Any

    def __call__(self, policy, minibatch, config):
        keys = minibatch.trajectory.policy_key
        fresh = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
        keys = jnp.where(self.is_fresh, fresh, keys)
        trajectory = dataclasses.replace(minibatch.trajectory, policy_key=keys)
        return ppo_loss(policy, dataclasses.replace(minibatch, trajectory=trajectory), config)


@pytest.mark.slow
def test_a_policy_that_learns_only_if_its_noise_is_replayed():
    """If noise is fresh, a KL stop permits no step. The test also uses a custom loss."""
    config = PPOConfig(
        num_envs=16, num_steps=8, num_epochs=2, learning_rate=0.1, target_kl=0.05, gamma=0.5
    )

    @eqx.filter_jit
    @eqx.filter_vmap
    def both_ways(is_fresh):
        policy = probes.Coin(jnp.zeros(()), jnp.zeros(()))
        state, metrics = train_scan(
            policy,
            probes.action_reward,
            config,
            total_steps=40 * 128,
            key=rlscan.key(0),
            loss=ReplayedWith(is_fresh),
        )
        return state.policy, metrics

    policy, metrics = both_ways(jnp.array([False, True]))
    consistent, naive = range(2)
    assert (metrics["audit_log_ratio"][consistent] <= 1e-5).all()
    assert (metrics["audit_log_ratio"][naive] > 0.01).all()
    assert (metrics["num_gradient_steps"][naive] == 0).all()
    assert policy.preference[naive] == 0
    assert policy.preference[consistent] > 2.5
    assert metrics["episode_return"][consistent, -5:].mean() > 0.6
    assert metrics["episode_return"][naive].mean() < 0.2


# Steps, against a loop written by hand.


def reference_advantages(trajectory, value, after_last, config):
    """Compute GAE in float64 from the recorded steps: `(advantage, target)`; see test_gae."""
    num_steps, num_envs = value.shape
    advantage, following = np.zeros_like(value), np.concatenate([value[1:], after_last[None]])
    for n in range(num_envs):
        trace = 0.0
        for t in reversed(range(num_steps)):
            next_value, keeps = following[t, n], 1.0
            if trajectory.truncated[t, n]:
                next_value, keeps = trajectory.value_of_final[t, n], 0.0
            if trajectory.terminated[t, n]:
                next_value, keeps = 0.0, 0.0
            delta = float(trajectory.reward[t, n]) + config.gamma * next_value - value[t, n]
            advantage[t, n] = trace = delta + config.gamma * config.gae_lambda * keeps * trace
    return advantage, advantage + value


class Steps(eqx.Module):
    """The part of a rollout that the reference needs."""

    observation: Any
    action: Any
    key: Any
    log_prob: Any
    reward: Any
    terminated: Any
    truncated: Any
    value_of_final: Any  # [T, N], used at truncated steps


@eqx.filter_jit
def values(policy, observation, keys):
    call = lambda seen, key: policy(seen, (), key=key)[1]  # noqa: E731
    for _ in range(keys.ndim):
        call = jax.vmap(call)
    return call(observation, keys)


def reference_batch(state, config):
    """Make the rollout of the next update: `(steps, value, advantage, target)`."""
    env = probes.Wander()
    rolled: Any = jit_rollout(state.policy, env, state.rollout_state, config.num_steps)
    after, t = rolled
    value = np.asarray(values(state.policy, t.observation, t.policy_key), np.float64)
    after_last = np.asarray(values(state.policy, after.observation, after.policy_key), np.float64)
    value_of_final = np.full_like(value, np.nan)
    kept = values(state.policy, t.final.observation, t.final.policy_key)
    for k, n in np.ndindex(t.final.step.shape):
        if t.final.step[k, n] < config.num_steps:
            value_of_final[t.final.step[k, n], n] = kept[k, n]
    steps = Steps(
        observation=t.observation,
        action=t.action,
        key=t.policy_key,
        log_prob=t.log_prob,
        reward=np.asarray(t.reward),
        terminated=np.asarray(t.terminated),
        truncated=np.asarray(t.truncated),
        value_of_final=value_of_final,
    )
    return steps, value, *reference_advantages(steps, value, after_last, config)


@eqx.filter_jit
@partial(eqx.filter_value_and_grad, has_aux=True)
def reference_loss(policy, steps, old_value, advantage, target, config):
    """Compute PPO's objective sample by sample from the equations."""

    def one(observation, action, key, old_log_prob, old_value, advantage, target):
        distribution, value, _ = policy(observation, (), key=key)
        log_ratio = jax.nn.log_softmax(distribution.logits)[action] - old_log_prob
        ratio, eps = jnp.exp(log_ratio), config.clip_range
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - eps, 1 + eps) * advantage)
        low, high = old_value - config.value_clip_range, old_value + config.value_clip_range
        near = jnp.minimum(jnp.maximum(value, low), high)
        error = jnp.maximum((value - target) ** 2, (near - target) ** 2) / 2
        probability = jax.nn.softmax(distribution.logits)
        return log_ratio, gain, error, -(probability * jnp.log(probability)).sum()

    standard = (advantage - advantage.mean()) / jnp.sqrt(jnp.var(advantage))
    log_ratio, gain, error, entropy = jax.vmap(jax.vmap(one))(
        steps.observation, steps.action, steps.key, steps.log_prob, old_value, standard, target
    )
    parts = -gain.mean(), error.mean(), entropy.mean()
    loss = parts[0] + config.value_coef * parts[1] - config.entropy_coef * parts[2]
    return loss, (log_ratio, parts)


class Adam:
    """Kingma & Ba 2015, algorithm 1, on a gradient that is clipped by its global norm."""

    def __init__(self, leaves):
        self.first = [np.zeros(leaf.shape) for leaf in leaves]
        self.second = [np.zeros(leaf.shape) for leaf in leaves]
        self.count = 0

    def steps(self, gradient, learning_rate, max_norm):
        gradient = [np.asarray(g, np.float64) for g in gradient]
        norm = np.sqrt(sum((g**2).sum() for g in gradient))
        gradient = [g * min(1, max_norm / norm) for g in gradient]
        self.count += 1
        self.first = [0.9 * m + 0.1 * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [0.999 * v + 0.001 * g**2 for v, g in zip(self.second, gradient, strict=True)]
        scale = 1 - 0.9**self.count, 1 - 0.999**self.count
        return norm, [
            -learning_rate * (m / scale[0]) / (np.sqrt(v / scale[1]) + 1e-5)
            for m, v in zip(self.first, self.second, strict=True)
        ]


def reference_update(state, config, adam, num_updates):
    """Make one update with a single minibatch: `(leaves, metrics)`."""
    steps, value, advantage, target = reference_batch(state, config)
    batch = [jnp.asarray(x, jnp.float32) for x in (value, advantage, target)]
    arrays, rest = eqx.partition(state.policy, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    rows, applied, last_rate, numbers = [], 0, np.nan, config.as_arrays()
    for _ in range(config.num_epochs):
        policy = eqx.combine(jax.tree.unflatten(structure, leaves), rest)
        (loss, (log_ratio, parts)), gradient = reference_loss(policy, steps, *batch, config=numbers)
        log_ratio = np.asarray(log_ratio, np.float64)
        kl = (np.expm1(log_ratio) - log_ratio).mean()
        outside = np.abs(np.exp(log_ratio) - 1) > config.clip_range
        learning_rate = config.learning_rate * (
            1 - adam.count / (num_updates * config.num_epochs - 1)
        )
        gradient = jax.tree.leaves(gradient)
        norm = float(np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in gradient)))
        rows.append([float(loss), *map(float, parts), -log_ratio.mean(), kl, outside.mean(), norm])
        if kl > config.target_kl:
            break
        _, moves = adam.steps(gradient, learning_rate, config.max_grad_norm)
        leaves = [x + jnp.asarray(move, jnp.float32) for x, move in zip(leaves, moves, strict=True)]
        applied += 1
        last_rate = learning_rate
    names = ["loss", "policy_loss", "value_loss", "entropy", "kl_k1", "approx_kl"]
    names += ["clip_fraction", "grad_norm"]
    metrics = dict(zip(names, np.mean(rows, axis=0), strict=True))
    residual = (target - value).var()
    metrics |= {"num_gradient_steps": applied, "explained_variance": 1 - residual / target.var()}
    if applied:
        metrics["learning_rate"] = last_rate
    return leaves, metrics


WHOLE = dataclasses.replace(
    CONFIG,
    num_epochs=4,
    num_minibatches=1,
    anneal_learning_rate=True,
    value_clip_range=0.2,
    learning_rate=0.02,
)


@pytest.mark.parametrize("target_kl", [np.inf, 0.002])
def test_an_update_equals_the_reference(jit_update, target_kl):
    """Parameters, Adam's state, the rate and the metrics agree, with and without a KL stop.

    After a stop, the parameters are those of the steps before it, and only these count.
    """
    config = dataclasses.replace(WHOLE, target_kl=float(target_kl))
    num_updates = 3
    state = init_train(
        probes.dropout_policy(), probes.Wander(), config.as_arrays(), key=rlscan.key(0)
    )
    adam = Adam(jax.tree.leaves(eqx.filter(state.policy, eqx.is_inexact_array)))
    applied, metrics = [], {}
    for _ in range(num_updates):
        leaves, expected = reference_update(state, config, adam, num_updates)
        state, metrics = jit_update(
            state, probes.Wander(), config.as_arrays(), num_updates=jnp.asarray(num_updates)
        )
        for ours, by_hand in zip(
            jax.tree.leaves(eqx.filter(state.policy, eqx.is_inexact_array)), leaves, strict=True
        ):
            np.testing.assert_allclose(ours, by_hand, atol=2e-5)
        for name, number in expected.items():
            assert metrics[name] == pytest.approx(number, rel=1e-3, abs=2e-5), name
        moments = state.opt_state[1][0]  # Adam runs on one flat vector
        for flat, by_hand in ((moments.mu, adam.first), (moments.nu, adam.second)):
            np.testing.assert_allclose(
                flat, np.concatenate([np.ravel(m) for m in by_hand]), atol=1e-5
            )
        applied.append(int(metrics["num_gradient_steps"]))
        assert state.num_gradient_steps == adam.count == sum(applied)
    if target_kl == np.inf:
        assert applied == [4, 4, 4] and metrics["learning_rate"] == 0  # in the last update
    else:
        assert 0 < sum(applied) < 12 and metrics["learning_rate"] > 0


# Minibatches.


seen: list[Any] = []


class Noting(eqx.Module):
    """A loss that records its inputs, pulls a number to 3, and gives one sample a large KL."""

    minded: Any  # key data of the sample; its minibatch reports that the policy moved far

    def __call__(self, policy, minibatch, config):
        parts = minibatch.advantage, minibatch.target, minibatch.trajectory.log_prob
        names = jax.random.key_data(minibatch.trajectory.policy_key)
        jax.debug.callback(lambda *x: seen.append(x), names, *parts, ordered=True)
        is_minded = (names == self.minded).all(axis=1).any()
        log_ratio = jnp.where(is_minded, jnp.ones_like(minibatch.advantage), 0.0)
        return (policy.preference - 3.0) ** 2, (log_ratio, {"mine": jnp.asarray(7.0)})


@pytest.mark.slow
def test_every_sample_is_used_once_per_epoch_by_a_custom_loss():
    """Samples are identified by their keys."""
    config = dataclasses.replace(CONFIG, num_steps=8, num_epochs=3, num_minibatches=4)
    start = init_train(
        probes.Coin(jnp.zeros(()), jnp.ones(())), probes.leak, config, key=rlscan.key(0)
    )
    jit_update = eqx.filter_jit(update)

    def run(config, minded) -> Any:
        seen.clear()
        loss = Noting(minded)
        result = jit_update(start, probes.leak, config.as_arrays(), num_updates=1, loss=loss)
        jax.effects_barrier()
        return result

    state, metrics = run(config, jnp.zeros(2, jnp.uint32))
    assert metrics["mine"] == 7
    assert state.policy.value == 1 and 0.1 < state.policy.preference < 0.13  # 12 steps of 0.01
    assert len(seen) == 12 and all(len(row) == 8 for call in seen for row in call)
    epochs = [[np.concatenate(x) for x in zip(*seen[i : i + 4], strict=True)] for i in (0, 4, 8)]
    in_order = []
    for names, *parts in epochs:
        order = np.lexsort(names.T)
        assert len(np.unique(names, axis=0)) == 32  # each of the 4 × 8 once
        in_order.append([names[order], *(part[order] for part in parts)])
        in_order[-1].append(order)
    for other in in_order[1:]:
        # All parts of a sample move together, and the order differs every time.
        for a, b in zip(in_order[0][:-1], other[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
        assert (in_order[0][-1] != other[-1]).any()

    # A KL stop in the third minibatch ends the whole update, later epochs included.
    third = jnp.asarray(seen[2][0][0])
    state, metrics = run(dataclasses.replace(config, target_kl=0.5), third)
    assert metrics["num_gradient_steps"] == state.num_gradient_steps == 2
    assert 0.015 < state.policy.preference < 0.025
    # The mean over the three minibatches that were evaluated.
    assert metrics["approx_kl"] == pytest.approx((np.e - 2) / 3, rel=1e-5)


@pytest.mark.slow
def test_minibatches_of_a_recurrent_policy_are_whole_environments():
    def rolled(key):
        policy, env = probes.Recurrent(1, 2), probes.memory
        state = rlscan.init_rollout(policy, env, num_envs=6, key=key)
        return rlscan.rollout(policy, env, state, 5)[1]

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(rlscan.key(2), leaf.shape)
        return jnp.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype)

    # Arrays of its shapes, filled with numbers that identify their origin.
    trajectory: Any = jax.tree.map(fill, eqx.filter_eval_shape(rolled, rlscan.key(0)))
    number = jnp.arange(30.0).reshape(5, 6)
    trajectory = dataclasses.replace(trajectory, final=None)
    batch = Minibatch(trajectory, number, number, number)
    shuffled = _shuffle(batch, 3, True, rlscan.key(1))
    assert shuffled.advantage.shape == (3, 5, 2)
    columns = np.asarray(shuffled.advantage[:, 0]).astype(int)
    assert sorted(columns.ravel()) == list(range(6))
    assert list(columns.ravel()) != list(range(6))
    np.testing.assert_array_equal(
        shuffled.trajectory.observation, _take(trajectory.observation, columns)
    )
    np.testing.assert_array_equal(
        shuffled.trajectory.initial_policy_state, _take(trajectory.initial_policy_state, columns)
    )
    np.testing.assert_array_equal(
        jax.random.key_data(shuffled.trajectory.policy_key),
        _take(jax.random.key_data(trajectory.policy_key), columns),
    )


def _take(leaf, columns):
    return np.stack([np.asarray(leaf)[:, some] for some in columns])


# Ways to run it.

SMALL = dataclasses.replace(CONFIG, num_steps=8, num_epochs=1, anneal_learning_rate=True)
TOTAL = 4 * 32


@pytest.mark.slow
@pytest.mark.parametrize("updates_per_call", [2, 3])  # with 3 there is a remainder
def test_all_ways_to_run_agree(updates_per_call):
    """`train` with any `updates_per_call` equals `train_scan` mapped over seeds and rates."""
    policy, env = probes.dropout_policy(0.5, 1, 2), probes.leak
    keys, rates = jax.random.split(rlscan.key(0), 2), jnp.array([0.01, 0.03])

    def whole(key, rate):
        config = eqx.tree_at(lambda c: c.learning_rate, SMALL, rate)
        state, metrics = train_scan(policy, env, config, total_steps=TOTAL, key=key)
        return eqx.filter(state.policy, eqx.is_array), metrics

    mapped = eqx.filter_jit(eqx.debug.assert_max_traces(eqx.filter_vmap(whole), max_traces=1))
    policies, metrics = mapped(keys, rates)
    assert (metrics["loss"][0] != metrics["loss"][1]).any()
    assert (metrics["learning_rate"][:, -1] == 0).all()

    updates = list(
        train(
            policy,
            env,
            SMALL,
            total_steps=TOTAL + 31,  # the run ends with the last whole update
            key=keys[0],
            updates_per_call=updates_per_call,
        )
    )
    assert len(updates) == 4
    steps = [4, 4, 8, 8] if updates_per_call == 2 else [6, 6, 6, 8]
    assert [int(state.num_gradient_steps) for state, _ in updates] == steps
    assert_close(updates[-1][0].policy, jax.tree.map(lambda leaf: leaf[0], policies), 1e-5)
    for name in METRICS:
        stacked = np.stack([row[name] for _, row in updates])
        np.testing.assert_allclose(stacked[0], metrics[name][0, 0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(stacked, metrics[name][0], rtol=1e-4, atol=1e-5)


def test_metrics_are_exactly_those_described(long_run):
    assert long_run[1].keys() == METRICS.keys()


def test_episode_metrics(long_run):
    """They average the episodes that ended, also across rollouts."""
    states, metrics = long_run
    returns, lengths, finished = np.zeros(4), np.zeros(4), []
    for state, number in zip(states[:-1], range(NUM_UPDATES), strict=True):
        _, t = jit_rollout(state.policy, probes.Wander(), state.rollout_state, 16)
        ended = []
        for reward, *ends in zip(
            *map(np.asarray, (t.reward, t.terminated, t.truncated)), strict=True
        ):
            returns, lengths = returns + reward, lengths + 1
            for n in np.flatnonzero(ends[0] | ends[1]):
                ended.append((returns[n], lengths[n]))
                returns[n] = lengths[n] = 0
        assert metrics["num_episodes"][number] == len(ended) > 0
        mean_return, mean_length = np.mean(ended, axis=0)
        assert metrics["episode_return"][number] == pytest.approx(mean_return, abs=1e-4)
        assert metrics["episode_length"][number] == pytest.approx(mean_length, rel=1e-5)
        finished += [float(of_one) for of_one, _ in ended]
        last = np.mean(finished[-100:])
        assert metrics["return_mean_100"][number] == pytest.approx(last, abs=1e-4)


def test_no_episode_is_not_a_return_of_0(long_run):
    (state, *_), _ = long_run
    _, trajectory = jit_rollout(state.policy, probes.Wander(), state.rollout_state, 16)
    no = jnp.zeros_like(trajectory.terminated)
    without = dataclasses.replace(trajectory, terminated=no, truncated=no)
    metrics = episode_metrics(*episodes_of(without))
    assert metrics["num_episodes"] == 0
    assert np.isnan(metrics["episode_return"]) and np.isnan(metrics["episode_length"])


# Probes.

GAMMA = 0.8
KNOWN = [name for name in testing.PROBES if name != "memory"]


@pytest.fixture(scope="module")
def trained_on_probes():
    environments = tuple(testing.PROBES[name] for name in KNOWN)
    config = PPOConfig(num_envs=16, num_steps=16, gamma=GAMMA, learning_rate=0.02, entropy_coef=0.0)

    @eqx.filter_jit
    @eqx.filter_vmap
    def trained(which):
        env = probes.any_of(environments, which)
        policy = probes.dropout_policy(0.0, 1, 2)
        return train_scan(policy, env, config, total_steps=60 * 256, key=rlscan.key(0))

    return trained(jnp.arange(len(KNOWN)))


@pytest.mark.parametrize("name", KNOWN)
def test_ppo_finds_the_values_of_a_probe(trained_on_probes, name):
    states, metrics = trained_on_probes
    i = KNOWN.index(name)
    policy = jax.tree.map(lambda x: x[i] if eqx.is_array(x) else x, states.policy)
    value_fn = lambda seen: policy(seen, (), key=rlscan.key(0))[1]  # noqa: E731
    testing.check_values(value_fn, testing.PROBES[name], GAMMA, tolerance=0.06)
    if name in ("action_reward", "both"):
        assert metrics["episode_return"][i, -1] > 0.95


@pytest.mark.slow
def test_a_recurrent_policy_learns_to_remember_at_a_ratio_of_1():
    config = PPOConfig(num_envs=32, num_steps=12, learning_rate=0.01, gamma=0.9, entropy_coef=0.003)
    run = eqx.filter_jit(partial(train_scan, config=config, total_steps=50 * 384))
    policy = probes.Recurrent(1, 2, rate=0.1)
    _, metrics = run(policy, probes.memory, key=rlscan.key(0))
    assert (metrics["audit_log_ratio"] <= 1e-5).all()
    assert (metrics["audit_clip_fraction"] == 0).all()
    assert metrics["episode_return"][-5:].mean() > 0.8
    assert metrics["episode_return"][0] < 0.4


# Invalid settings.


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_minibatches": 3}, r"num_envs \* num_steps = 64 .* 3; use 1, 2 or 4"),
        ({"num_minibatches": 60}, r"= 60; use 16, 32 or 64"),
        ({"num_envs": 0}, "num_envs must be a positive integer, got 0"),
        ({"num_steps": -1}, "num_steps must be a positive integer, got -1"),
        ({"num_epochs": 0}, "num_epochs must be"),
        ({"num_minibatches": 0}, "num_minibatches must be"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"gae_lambda": -0.1}, "gae_lambda must be"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 or more"),
        ({"learning_rate": np.nan}, "learning_rate must be 0 or more"),
        ({"value_coef": np.inf}, "value_coef must be 0 or more, and finite"),
        ({"entropy_coef": -0.5}, "entropy_coef must be"),
        ({"clip_range": 0.0}, "clip_range must be above 0, got 0.0"),
        ({"value_clip_range": 0.0}, "value_clip_range must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be above 0"),
        ({"target_kl": 0.0}, "target_kl must be above 0"),
        ({"adam_eps": 0.0}, "adam_eps must be above 0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    config = dataclasses.replace(CONFIG, **settings)
    with pytest.raises(ValueError, match=message):
        init_train(probes.dropout_policy(), probes.Wander(), config, key=rlscan.key(0))


def test_a_setting_of_another_type_is_refused_by_its_name():
    """The setting is changed in a way that the suite's own type checks do not see."""
    wrongs = {"num_envs": "8", "target_kl": None, "learning_rate": True, "shared_noise": 1}
    for name, wrong in wrongs.items():
        config = dataclasses.replace(CONFIG)
        object.__setattr__(config, name, wrong)
        with pytest.raises(ValueError, match=f"{name} must be .* got {wrong!r}"):
            check_config(config)


def test_a_number_is_checked_whoever_holds_it():
    """NumPy, JAX, or an array of one number for each of several runs; a traced one is taken."""
    for hold in (np.float64, np.float32, jnp.float32, lambda x: np.array([0.1, x])):
        for name, wrong in (("gamma", 1.5), ("learning_rate", -1e-3), ("adam_eps", 0.0)):
            config = eqx.tree_at(attrgetter(name), CONFIG, hold(wrong))
            with pytest.raises(ValueError, match=rf"{name} must be .*, got (-?\d|np.float)"):
                check_config(config)
        with pytest.raises(ValueError, match="value_coef must be 0 or more, and finite, got nan"):
            check_config(eqx.tree_at(attrgetter("value_coef"), CONFIG, hold(math.nan)))
        check_config(eqx.tree_at(attrgetter("gamma"), CONFIG, hold(0.5)))
    for wrong in (np.array([True]), np.array(1j), "0.5"):
        with pytest.raises(ValueError, match="gamma must be a number, got "):
            check_config(eqx.tree_at(attrgetter("gamma"), CONFIG, wrong))
    jax.eval_shape(lambda x: check_config(eqx.tree_at(attrgetter("gamma"), CONFIG, x)), 1.5)


def test_counts_and_flags_become_those_of_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the suite's own type checks
    numbers: Any = {"num_envs": np.uint8(64), "num_steps": np.array(8), "shared_noise": np.True_}
    given = PPOConfig(**numbers)
    assert (given.num_envs * given.num_steps, given.shared_noise) == (512, True)
    assert given == PPOConfig(num_envs=64, num_steps=8, shared_noise=True)
    assert hash(given) == hash(PPOConfig(num_envs=64, num_steps=8, shared_noise=True))
    check_config(given)


def test_a_size_of_0_is_refused_by_the_run_itself():
    config = dataclasses.replace(CONFIG, num_envs=0)
    with pytest.raises(ValueError, match="num_envs must be a positive integer, got 0"):
        train(probes.dropout_policy(), probes.Wander(), config, total_steps=64, key=rlscan.key(0))


def test_minibatches_of_a_recurrent_policy_divide_its_environments():
    config = dataclasses.replace(CONFIG, num_minibatches=8)
    init_train(probes.dropout_policy(), probes.Wander(), config, key=rlscan.key(0))
    with pytest.raises(
        ValueError, match=r"num_envs \(the policy is recurrent\) = 4 .* use 1, 2 or 4"
    ):
        init_train(probes.Recurrent(), probes.Wander(), config, key=rlscan.key(0))


@pytest.mark.parametrize(
    "total_steps, message",
    [(63, "64 or more"), (0, "positive"), (-5, "posi"), (10**14, "counted up to 2147483647")],
)
def test_a_run_has_at_least_one_update(total_steps, message):
    """The call itself raises, not the first update."""
    with pytest.raises(ValueError, match=message):
        train(
            probes.dropout_policy(),
            probes.Wander(),
            CONFIG,
            total_steps=total_steps,
            key=rlscan.key(0),
        )


def test_a_call_makes_at_least_one_update():
    with pytest.raises(ValueError, match="updates_per_call must be a positive integer, got 0"):
        train(
            probes.dropout_policy(),
            probes.Wander(),
            CONFIG,
            total_steps=64,
            key=rlscan.key(0),
            updates_per_call=0,
        )


def test_a_call_makes_no_more_updates_than_its_metrics_have_room_for():
    assert _updates_in_a_call(10**9, 4) == 4
    with pytest.raises(ValueError, match="updates_per_call must be at most 1048576, since a call"):
        _updates_in_a_call(10**9, 10**8)


@pytest.mark.parametrize("strict", ["yes", None, float("nan"), float("inf"), -1, 0])
def test_what_is_neither_a_switch_nor_a_tolerance_is_refused(strict):
    with pytest.raises(ValueError, match="strict must be True, False, or the largest audit_error"):
        _tolerance(strict)


class ValueOfOne(eqx.Module):
    policy: probes.Feedforward

    def __call__(self, observation, state, *, key):
        distribution, value, state = self.policy(observation, state, key=key)
        return distribution, value[None], state

    def initial_state(self):
        return ()


def test_a_value_that_is_not_a_scalar_is_refused():
    policy = ValueOfOne(probes.dropout_policy())
    with pytest.raises(ValueError, match=r"value is a float of shape \(\).*value\[0\]"):
        init_train(policy, probes.Wander(), CONFIG, key=rlscan.key(0))


@pytest.mark.slow
def test_an_endless_run_keeps_learning():
    """After more than 2^31 gradient steps, a 32-bit count would make the rate 0."""
    env = rlscan.make("CartPole-v1")
    config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=4, num_epochs=4, num_minibatches=4)
    policy = rlscan.policies.ActorCritic(env, hidden_sizes=(4,), key=rlscan.key(0))
    state = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(1))
    _, metrics = eqx.filter_jit(rlscan.ppo.update)(state, env, config, num_updates=10**9)
    assert metrics["learning_rate"] == pytest.approx(config.learning_rate)
