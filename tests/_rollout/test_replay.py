"""Replay gives what acting gave, for every kind of noise, and something else for wrong keys."""

import dataclasses
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan import init_rollout, replay, rollout
from rlscan._rollout.blocks import _in_blocks
from rlscan._rollout.replay import policy_states

N, T = 4, 21

DISCRETE = {
    "dropout": (probes.dropout_policy, probes.Wander()),
    "own noise": (probes.noise_policy, probes.Wander()),
    "conv": (probes.conv_policy, probes.Wander()),
    "attention": (probes.attention_policy, probes.Wander()),
    "recurrent": (probes.Recurrent, probes.Wander()),
}
CONTINUOUS = {"gaussian": (probes.gaussian_dropout_policy, probes.Wander(is_continuous=True))}
POLICIES = DISCRETE | CONTINUOUS
FEEDFORWARD = [name for name in POLICIES if name != "recurrent"]

jit_replay = eqx.filter_jit(replay)


@eqx.filter_jit
def start_and_roll(policy, env, key):
    state = init_rollout(policy, env, num_envs=N, key=key)
    return rollout(policy, env, state, T)


rolled: dict[str, Any] = {}


def roll(name) -> Any:
    """A function that returns `(policy, state, trajectory)`, computed once for each policy."""
    if name not in rolled:
        make_policy, env = POLICIES[name]
        policy = make_policy()
        rolled[name] = policy, *start_and_roll(policy, env, rlscan.key(0))
    return rolled[name]


def error(log_prob, trajectory):
    """|Δ log π|, relative if |log π| exceeds 1."""
    old = trajectory.log_prob
    return float((jnp.abs(log_prob - old) / jnp.maximum(1, jnp.abs(old))).max())


def tolerance(name):
    return 1e-4 if name in CONTINUOUS else 1e-5


def with_keys(trajectory, policy_key):
    return dataclasses.replace(trajectory, policy_key=policy_key)


DEFECTS = {
    "permuted": lambda policy, t: (policy, with_keys(t, t.policy_key[:, ::-1])),
    "off by one": lambda policy, t: (policy, with_keys(t, jnp.roll(t.policy_key, 1, axis=0))),
    "shared": lambda policy, t: (
        policy,
        with_keys(t, jnp.broadcast_to(t.policy_key[:, :1], t.policy_key.shape)),
    ),
    "fresh": lambda policy, t: (
        policy,
        with_keys(t, jax.random.split(rlscan.key(9), t.policy_key.shape)),
    ),
    "inference": lambda policy, t: (eqx.nn.inference_mode(policy), t),
}


def steps(trajectory):
    """Flatten the leaves that are `[T, N, …]`."""
    trajectory = dataclasses.replace(trajectory, initial_policy_state=(), final=None)
    return jax.tree.map(lambda leaf: leaf.reshape(T * N, *leaf.shape[2:]), trajectory)


# Each policy is compiled in one test only, because tests may run in several processes.


@pytest.mark.parametrize("name", FEEDFORWARD)
def test_the_ratio_is_1(name):
    """It is 1 in the rollout's shape and in shuffled minibatches, but not with another key."""
    policy, _, trajectory = roll(name)
    assert (trajectory.terminated | trajectory.truncated).any(axis=0).all()  # across resets
    log_prob, entropy, value = jit_replay(policy, trajectory)
    assert log_prob.shape == entropy.shape == value.shape == (T, N)
    assert error(log_prob, trajectory) <= tolerance(name)

    some = np.random.default_rng(0).permutation(T * N)[:32]
    minibatch = jax.tree.map(lambda leaf: leaf[some], steps(trajectory))
    shuffled = jit_replay(policy, minibatch)
    assert error(shuffled[0], minibatch) <= tolerance(name)
    for part, whole in zip(shuffled, (log_prob, entropy, value), strict=True):
        np.testing.assert_allclose(part, whole.ravel()[some], atol=tolerance(name))

    for defect, plant in DEFECTS.items():
        if defect != "inference" or name in ("dropout", "attention"):
            log_prob, _, _ = jit_replay(*plant(policy, trajectory))
            assert error(log_prob, trajectory) > 0.05, defect


def test_the_ratio_of_a_recurrent_policy_is_1():
    """It is not 1 with other keys, other resets or another initial state."""
    policy, _, trajectory = roll("recurrent")
    done = trajectory.terminated | trajectory.truncated
    assert done.any(axis=0).all()
    log_prob, _, value = jit_replay(policy, trajectory)
    assert error(log_prob, trajectory) <= 1e-5
    np.testing.assert_allclose(value, trajectory.value, atol=1e-5)

    late = jnp.roll(done, 1, axis=0)
    state = trajectory.initial_policy_state + 0.5
    defects = {
        "no reset": dataclasses.replace(
            trajectory, terminated=done & False, truncated=done & False
        ),
        "reset late": dataclasses.replace(trajectory, terminated=late, truncated=late),
        "another start": dataclasses.replace(trajectory, initial_policy_state=state),
    }
    planted = {name: plant(policy, trajectory) for name, plant in DEFECTS.items()}
    planted |= {name: (policy, defect) for name, defect in defects.items()}
    for name, (policy, defect) in planted.items():
        assert error(jit_replay(policy, defect)[0], trajectory) > 0.01, name


# Any shape, any order, any transform.


@pytest.mark.slow
def test_whole_environments_of_a_recurrent_policy():
    policy, _, trajectory = roll("recurrent")
    some = jnp.array([3, 1])
    minibatch = jax.tree.map(lambda leaf: leaf[:, some], trajectory)
    assert error(jit_replay(policy, minibatch)[0], minibatch) <= 1e-5


class Counts(eqx.Module):
    """A policy whose state starts as a Python number."""

    weight: Any

    def __call__(self, observation, state, *, key):
        logits = observation[:3] * self.weight * (1 + state["steps"])
        return distrax.Categorical(logits=logits), observation[0], {"steps": state["steps"] + 1}

    def initial_state(self):
        return {"steps": 0}


@pytest.mark.slow
def test_a_state_of_python_numbers():
    policy, env = Counts(jnp.asarray(0.3)), probes.Wander()
    _, trajectory = start_and_roll(policy, env, rlscan.key(0))
    assert error(jit_replay(policy, trajectory)[0], trajectory) <= 1e-5


def test_a_flat_minibatch_of_a_recurrent_policy_is_refused():
    policy, _, trajectory = roll("recurrent")
    flat = jax.tree.map(lambda leaf: leaf[0], trajectory)
    with pytest.raises(ValueError, match=r"recurrent.*\[T, n\].*x\[:, environments\]"):
        replay(policy, flat)


@pytest.mark.slow
def test_under_vmap_over_seeds():
    make_policy, env = POLICIES["recurrent"]
    policy = make_policy()

    @eqx.filter_jit
    @eqx.filter_vmap
    def seeds(key):
        state = init_rollout(policy, env, num_envs=N, key=key)
        _, trajectory = rollout(policy, env, state, T)
        return trajectory, replay(policy, trajectory)[0]

    trajectory, log_prob = seeds(jax.random.split(rlscan.key(0), 3))
    assert error(log_prob, trajectory) <= 1e-5
    assert (trajectory.log_prob[0] != trajectory.log_prob[1]).any()


def test_under_checkpoint():
    """Rematerialising draws the same masks again, so the gradient does not change."""
    policy, _, trajectory = roll("dropout")

    def total(policy, call):
        return (call(policy, trajectory)[0] * jnp.cos(jnp.arange(N))).sum()

    gradient = eqx.filter_jit(eqx.filter_grad(total))
    plain, checkpointed = gradient(policy, replay), gradient(policy, eqx.filter_checkpoint(replay))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(checkpointed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# Against a float64 network, and a Python loop.


class TinyNet(eqx.Module):
    """A network with one hidden layer and dropout, small enough to rewrite in NumPy."""

    hidden: Any
    output: Any
    dropout: eqx.nn.Dropout

    def __call__(self, observation, state, *, key):
        features = self.dropout(jnp.tanh(self.hidden @ observation), key=key)
        return distrax.Categorical(logits=self.output @ features), features.sum(), state

    def initial_state(self):
        return ()


@pytest.mark.slow
def test_value_and_gradient_against_a_float64_network():
    rng = np.random.default_rng(0)
    hidden, output = rng.normal(size=(8, 4)), rng.normal(size=(3, 8))
    policy = TinyNet(
        jnp.asarray(hidden, jnp.float32), jnp.asarray(output, jnp.float32), eqx.nn.Dropout(0.4)
    )
    _, trajectory = start_and_roll(policy, probes.Wander(), rlscan.key(0))
    weight = rng.normal(size=(3, T, N))

    def weighted(policy):
        results = replay(policy, trajectory)
        return sum((w * x).sum() for w, x in zip(jnp.asarray(weight), results, strict=True)), (
            results
        )

    (_, (log_prob, entropy, value)), gradient = eqx.filter_jit(
        eqx.filter_value_and_grad(weighted, has_aux=True)
    )(policy)

    hidden, output = np.asarray(policy.hidden, float), np.asarray(policy.output, float)
    hidden_gradient, output_gradient = np.zeros((8, 4)), np.zeros((3, 8))
    for t, n in np.ndindex(T, N):
        # `eqx.nn.Dropout` draws these bits from the recorded key; all else is NumPy.
        mask = np.asarray(policy.dropout(jnp.ones(8), key=trajectory.policy_key[t, n]), float)
        x, action = np.asarray(trajectory.observation[t, n], float), trajectory.action[t, n]
        tanh = np.tanh(hidden @ x)
        logits = output @ (tanh * mask)
        log_policy = logits - np.log(np.exp(logits).sum())
        policy_now = np.exp(log_policy)
        entropy_now = -(policy_now * log_policy).sum()
        assert log_prob[t, n] == pytest.approx(log_policy[action], abs=1e-5)
        assert entropy[t, n] == pytest.approx(entropy_now, abs=1e-5)
        assert value[t, n] == pytest.approx((tanh * mask).sum(), abs=1e-5)
        of_log_prob, of_entropy, of_value = weight[:, t, n]
        of_logits = of_log_prob * (np.eye(3)[action] - policy_now)
        of_logits -= of_entropy * policy_now * (log_policy + entropy_now)
        of_features = output.T @ of_logits + of_value
        output_gradient += np.outer(of_logits, tanh * mask)
        hidden_gradient += np.outer(of_features * mask * (1 - tanh**2), x)
    np.testing.assert_allclose(gradient.output, output_gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient.hidden, hidden_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_gradient_through_time_against_finite_differences():
    """The derivative of a recurrent policy with resets, along a random direction, agrees."""
    policy, _, trajectory = roll("recurrent")
    arrays, rest = eqx.partition(policy, eqx.is_inexact_array)

    @jax.jit
    def total(arrays):
        log_prob, entropy, value = replay(eqx.combine(arrays, rest), trajectory)
        return (log_prob + 0.3 * entropy + 0.2 * value).mean()

    leaves, structure = jax.tree.flatten(arrays)
    rng = np.random.default_rng(0)
    direction = [jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]

    def moved(distance):
        steps = zip(leaves, direction, strict=True)
        return float(total(jax.tree.unflatten(structure, [x + distance * d for x, d in steps])))

    slope = sum(
        float((g * d).sum())
        for g, d in zip(jax.tree.leaves(jax.jit(jax.grad(total))(arrays)), direction, strict=True)
    )
    # A fourth-order formula permits a distance large enough for float32.
    h = 0.02
    finite = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert abs(slope) > 0.05
    assert slope == pytest.approx(finite, rel=5e-3)


class Counting(eqx.Module):
    """A policy whose state counts its calls."""

    def __call__(self, observation, state, *, key):
        return distrax.Categorical(logits=jnp.zeros(2)), state, state + 1

    def initial_state(self):
        return jnp.zeros(())


def test_policy_states_are_those_before_each_step():
    """The first environment goes on from its third step; it ends an episode at t = 1."""
    done = jnp.asarray([[False, True], [True, False], [False, False], [False, False]])
    zeros = jnp.zeros(done.shape)
    trajectory = rlscan.Trajectory(
        observation=zeros,
        action=zeros.astype(int),
        log_prob=zeros,
        reward=zeros,
        terminated=done,
        truncated=done,
        episode_return=zeros,
        episode_length=zeros.astype(int),
        policy_key=jax.random.split(rlscan.key(0), done.shape),
        value=zeros,
        initial_policy_state=jnp.asarray([[3.0, 0.0]]),
        final=None,
    )
    states = policy_states(Counting(), trajectory)
    np.testing.assert_array_equal(states, [[3, 0], [4, 0], [0, 1], [1, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("block", [4, 10])
def test_many_steps_are_replayed_in_blocks(block, monkeypatch):
    """Blocks whose length divides 6 × 5 give the same results in either batch shape."""
    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=5, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, 6)
    steps = dataclasses.replace(trajectory, final=None, initial_policy_state=())
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)
    at_once = rlscan.replay(policy, trajectory)
    monkeypatch.setattr("rlscan._rollout.blocks.BLOCK", block)
    text = str(eqx.filter_make_jaxpr(rlscan.replay)(policy, trajectory)[0])
    assert " scan[" in text
    for part, shape in ((trajectory, (6, 5)), (flat, (30,))):
        for now, before in zip(rlscan.replay(policy, part), at_once, strict=True):
            assert now.shape == shape
            np.testing.assert_allclose(now, before.reshape(shape), atol=1e-5)
    np.testing.assert_allclose(at_once[0], trajectory.log_prob, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [probes.dropout_policy(), probes.conv_policy()])
def test_a_gradient_is_not_taken_through_blocks(policy, monkeypatch):
    """Through blocks it would be slower and store more, but be the same."""
    _, trajectory = start_and_roll(policy, probes.Wander(), rlscan.key(0))

    @eqx.filter_grad
    def gradient(policy, of):
        return sum(x.sum() for x in of(policy, trajectory))

    def by_blocks(policy, trajectory):
        with pytest.MonkeyPatch.context() as context:
            context.setattr("rlscan._rollout.blocks._over_steps", _in_blocks)
            return replay(policy, trajectory)

    monkeypatch.setattr("rlscan._rollout.blocks.BLOCK", 21)
    text = str(eqx.filter_make_jaxpr(gradient)(policy, replay)[0])
    assert " scan[" not in text
    assert " scan[" in str(eqx.filter_make_jaxpr(gradient)(policy, by_blocks)[0])
    found, wanted = (eqx.filter_jit(gradient)(policy, of) for of in (replay, by_blocks))
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
