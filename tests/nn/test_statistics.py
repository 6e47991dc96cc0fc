"""Running statistics are frozen from a rollout's first step to the last epoch, then updated."""

import dataclasses
import textwrap
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from statistics_network import MOMENTUM, make_policy

import rlscan
from rlscan._rollout.replay import policy_states
from rlscan._rollout.statistics import move_statistics
from rlscan.nn._statistics import with_frozen_statistics

N, T = 4, 8
CONFIG = rlscan.ppo.PPOConfig(
    num_envs=N, num_steps=T, num_epochs=2, num_minibatches=2, learning_rate=0.03
)


def test_the_example_in_help_is_a_policy():
    example = textwrap.dedent(
        (rlscan.nn.WithStatistics.__doc__ or "").split("```")[1].removeprefix("python")
    )
    scope: dict[str, Any] = {"eqx": eqx, "distrax": distrax, "rlscan": rlscan}
    exec(example, scope)
    rlscan.check_policy(scope["policy"], rlscan.make("CartPole-v1"))
    assert "def __call__(self, observation, state, statistics, *, key):" in example
    assert "output[2], state, statistics" in example and 'mode="batch"' in example


@pytest.fixture(scope="module", params=[False, True], ids=["feedforward", "recurrent"])
def run(request):
    """Make three updates, and return the states before and after each and the metrics."""
    states, metrics = [], []
    policy = make_policy(is_recurrent=request.param)
    state = rlscan.ppo.init_train(policy, probes.Wander(), CONFIG, key=rlscan.key(0))
    update = eqx.filter_jit(rlscan.ppo.update)
    for _ in range(3):
        states.append(state)
        state, row = update(state, probes.Wander(), CONFIG, num_updates=3)
        metrics.append(row)
    return [*states, state], metrics


def small_trajectory() -> rlscan.Trajectory:
    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=1, key=rlscan.key(0))
    return rlscan.rollout(policy, env, state, 1)[1]


def statistics_of(policy) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(policy.statistics)]


@pytest.mark.slow
def test_the_ratio_is_1_and_statistics_move_between_updates(run):
    states, metrics = run
    assert all(row["audit_error"] <= 1e-5 for row in metrics)
    assert all(row["approx_kl"] > 1e-4 for row in metrics)  # the policy has changed
    for before, after in zip(states, states[1:], strict=False):
        moved = [
            (a != b).any()
            for a, b in zip(statistics_of(before.policy), statistics_of(after.policy), strict=True)
        ]
        assert sum(moved) >= 4  # the counter, mean, variance and a vector of the spectral norm


@pytest.mark.slow
def test_statistics_move_by_the_batch_of_the_rollout(run):
    """The moments of the first layer's output over T · N samples equal NumPy's in float64."""
    (before, after, *_), _ = run
    _, trajectory = eqx.filter_jit(rlscan.rollout)(
        before.policy, probes.Wander(), before.rollout_state, T
    )
    network = after.policy.network
    seen = np.asarray(trajectory.observation, np.float64)
    if network.cell is not None:
        # The output of the cell at each step, with the weights after the epochs.
        states = np.asarray(policy_states(after.policy, trajectory))
        cell = jax.vmap(jax.vmap(network.cell))
        seen = np.asarray(cell(trajectory.observation, jnp.asarray(states)), np.float64)
    weight, bias = (np.asarray(x, np.float64) for x in (network.first.weight, network.first.bias))
    hidden = seen.reshape(T * N, -1) @ weight.T + bias
    layer = network.batch_norm
    old_mean, old_variance = before.policy.statistics.get(layer.batch_state_index)
    mean, variance = after.policy.statistics.get(layer.batch_state_index)
    close: Any = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        mean, MOMENTUM * old_mean + (1 - MOMENTUM) * hidden.mean(axis=0), **close
    )
    np.testing.assert_allclose(
        variance, MOMENTUM * old_variance + (1 - MOMENTUM) * hidden.var(axis=0), **close
    )


@pytest.mark.slow
def test_each_step_starts_from_its_recorded_state(run):
    """Each key reproduces the log-probability of its step, across resets."""
    (before, *_), _ = run
    policy = before.policy
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, probes.Wander(), before.rollout_state, T)
    states = eqx.filter_jit(policy_states)(policy, trajectory)
    if not jax.tree.leaves(policy.initial_state()):
        assert states == ()
        return

    def log_prob(observation, state, action, key):
        return policy(observation, state, key=key)[0].log_prob(action)

    one_by_one = jax.jit(jax.vmap(jax.vmap(log_prob)))(
        trajectory.observation, states, trajectory.action, trajectory.policy_key
    )
    np.testing.assert_allclose(one_by_one, trajectory.log_prob, atol=1e-5)


@pytest.mark.slow
def test_statistics_that_move_early_are_found():
    policy, env = make_policy(), probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, T)
    assert rlscan.explain_ratio(policy, env, trajectory) is None
    early = move_statistics(policy, trajectory)
    cause = rlscan.explain_ratio(early, env, trajectory)
    assert cause is not None and cause.startswith("stale statistics")


def test_neither_gradient_nor_optimiser_sees_statistics():
    policy = make_policy()
    params, rest = rlscan.nn.partition_trainable(policy)
    assert jax.tree.leaves(params.statistics) == []
    assert len(jax.tree.leaves(rest.statistics)) == len(jax.tree.leaves(policy.statistics))
    assert eqx.tree_equal(eqx.combine(params, rest), policy)
    assert len(jax.tree.leaves(params)) == 2 + 2 + 2 + 2  # weight and bias of each layer


def test_dropout_is_on_while_statistics_are_frozen():
    policy, x = make_policy(), jnp.ones(4)
    values = [policy(x, (), key=rlscan.key(seed))[1] for seed in range(4)]
    assert len(set(map(float, values))) > 1
    before = statistics_of(policy)
    for a, b in zip(before, statistics_of(policy), strict=True):
        np.testing.assert_array_equal(a, b)
    off = eqx.nn.inference_mode(policy)
    values = [off(x, (), key=rlscan.key(seed))[1] for seed in range(4)]
    assert len(set(map(float, values))) == 1


@pytest.mark.slow
def test_a_policy_without_statistics_is_returned_as_it_is():
    policy = probes.dropout_policy()
    assert move_statistics(policy, small_trajectory()) is policy


class Receiving(eqx.Module):
    """A policy that keeps the steps that it is given for its statistics."""

    received: Any = None

    def initial_state(self) -> tuple:
        return ()

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        return distrax.Categorical(logits=jnp.zeros(2)), jnp.zeros(()), state

    def move_statistics(self, steps: Any, axis: Any) -> Any:
        return dataclasses.replace(self, received=steps)


def test_statistics_move_by_the_inputs_of_all_steps():
    trajectory = small_trajectory()
    moved: Any = move_statistics(Receiving(), trajectory)
    assert moved.received.state == ()
    seen = trajectory.observation.reshape(-1, *trajectory.observation.shape[2:])
    np.testing.assert_array_equal(moved.received.observation, seen)
    assert (moved.received.key == trajectory.policy_key.ravel()).all()


class Outer(eqx.Module):
    inner: Any

    def __call__(self, observation, state, *, key):
        return self.inner(observation, state, key=key)

    def initial_state(self):
        return ()


@pytest.mark.slow
def test_statistics_inside_of_a_policy_move_as_they_do_alone():
    inner, trajectory = make_policy(), small_trajectory()
    alone: Any = move_statistics(inner, trajectory)
    moved: Any = move_statistics(Outer(inner), trajectory)
    assert type(moved) is Outer and eqx.tree_equal(moved.inner, alone)
    assert not eqx.tree_equal(moved.inner, inner)


def test_a_batch_norm_without_statistics_at_first_is_refused():
    with pytest.raises(ValueError, match=r"network\.batch_norm .* use mode='batch'"):
        make_policy(mode="ema")


@pytest.mark.slow
def test_layers_must_use_one_name_for_the_batch():
    class Two(eqx.Module):
        a: Any
        b: Any

        def __init__(self):
            self.a = eqx.nn.BatchNorm(4, "batch", mode="batch")
            self.b = eqx.nn.BatchNorm(4, "other", mode="batch")

        def __call__(self, observation, state, statistics, *, key):
            hidden, statistics = self.a(observation, statistics)
            hidden, statistics = self.b(hidden, statistics)
            return distrax.Categorical(logits=hidden[:3]), hidden[3], state, statistics

        def initial_state(self):
            return ()

    policy: Any = rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Two)())
    env = probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    _, trajectory = rlscan.rollout(policy, env, state, 2)
    with pytest.raises(ValueError, match="give them one axis_name"):
        move_statistics(policy, trajectory)


def test_statistics_are_saved_and_loaded_as_leaves(tmp_path):
    policy = make_policy()
    moved = dataclasses.replace(policy, statistics=jax.tree.map(lambda x: x + 1, policy.statistics))
    eqx.tree_serialise_leaves(tmp_path / "policy.eqx", moved)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "policy.eqx", policy)
    assert eqx.tree_equal(loaded, moved)


class Several(eqx.Module):
    indices: list[eqx.nn.StateIndex]
    inside: Any = None
    inference: bool = False


def test_a_layer_with_its_indices_in_a_list_is_frozen():
    network = {"layer": Several([eqx.nn.StateIndex(jnp.zeros(2))])}
    assert not network["layer"].inference
    assert with_frozen_statistics(network)["layer"].inference


def test_a_layer_inside_of_another_is_frozen_and_no_other():
    index = [eqx.nn.StateIndex(jnp.zeros(2))]
    inner = [Several(index), eqx.nn.Dropout()]
    frozen = with_frozen_statistics(Several(index, inside=inner))
    assert frozen.inference and frozen.inside[0].inference and not frozen.inside[1].inference
    assert with_frozen_statistics(eqx.nn.Dropout()) == eqx.nn.Dropout()
