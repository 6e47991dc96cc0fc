"""`strict` stops a run whose ratio does not start at 1, and names the cause."""

import dataclasses
from functools import partial
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan import AuditError, PPOConfig, explain_ratio, ppo_loss
from rlscan._rollout.audit import audit_tolerance, relative_error

CONFIG = PPOConfig(num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1, learning_rate=0.01)
N, T = 4, 8


def with_trajectory(minibatch, **changes):
    trajectory = dataclasses.replace(minibatch.trajectory, **changes)
    return dataclasses.replace(minibatch, trajectory=trajectory)


def other(key):
    return jax.random.fold_in(key, 1)


# Losses with common faults, named after the fault.


def fresh_masks(policy, minibatch, config):
    keys = jax.vmap(other)(minibatch.trajectory.policy_key)
    return ppo_loss(policy, with_trajectory(minibatch, policy_key=keys), config)


def dropout_off(policy, minibatch, config):
    return ppo_loss(eqx.nn.inference_mode(policy), minibatch, config)


def clipped_actions(policy, minibatch, config):
    action = jnp.clip(minibatch.trajectory.action, -0.5, 0.5)
    return ppo_loss(policy, with_trajectory(minibatch, action=action), config)


def keys_off_by_one(policy, minibatch, config):
    keys = jnp.roll(minibatch.trajectory.policy_key, 1, axis=0)
    return ppo_loss(policy, with_trajectory(minibatch, policy_key=keys), config)


FAULTS = {
    "wrong keys": (fresh_masks, False),
    "wrong keys: ": (keys_off_by_one, False),
    "dropout was on in one": (dropout_off, False),
    "clipped actions": (clipped_actions, True),
}


@pytest.mark.exhaustive
@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("cause", FAULTS)
def test_a_faulty_loss_stops_the_run_with_its_cause(cause):
    loss, is_continuous = FAULTS[cause]
    policy = probes.gaussian_dropout_policy() if is_continuous else probes.dropout_policy()
    env = probes.Wander(is_continuous=is_continuous)
    run = rlscan.train(
        policy, env, CONFIG, total_steps=64, key=rlscan.key(0), loss=loss, strict=True
    )
    with pytest.raises(AuditError) as error:
        list(run)
    assert str(error.value).startswith("update 1: before its first gradient step log π is off by")
    assert f"Likely cause: {cause}" in str(error.value)


class LateFault(eqx.Module):
    """Draw fresh masks once the policy has learned, from the third update on."""

    start: Any  # the untrained policy's weights

    def __call__(self, policy, minibatch, config):
        moved = jnp.abs(policy.critic.weight - self.start).sum()
        keys = minibatch.trajectory.policy_key
        late = moved > 0.02
        keys = jnp.where(late, jax.vmap(other)(keys), keys)
        return ppo_loss(policy, with_trajectory(minibatch, policy_key=keys), config)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_fault_among_several_updates_of_one_call():
    policy, env = probes.dropout_policy(), probes.Wander()
    config = dataclasses.replace(CONFIG, num_minibatches=1, learning_rate=1e-3)
    run = partial(
        rlscan.train,
        policy,
        env,
        config,
        total_steps=6 * 32,
        key=rlscan.key(0),
        loss=LateFault(policy.critic.weight),
    )
    errors = [float(metrics["audit_error"]) for _, metrics in run(updates_per_call=6)]
    first = int(np.argmax(np.array(errors) > 1e-5))
    assert first > 0
    with pytest.raises(AuditError, match=f"update {first + 1}: .* Likely cause: wrong keys"):
        list(run(updates_per_call=6, strict=True))
    # The tolerance.
    assert len(list(run(updates_per_call=6, strict=100.0))) == 6


def test_the_tolerance_depends_on_the_kind_of_actions():
    discrete, continuous = probes.dropout_policy(), probes.gaussian_dropout_policy()
    assert audit_tolerance(discrete, probes.Wander()) == 1e-5
    assert audit_tolerance(continuous, probes.Wander(is_continuous=True)) == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("is_continuous", [False, True])
def test_a_sound_run_is_not_stopped(is_continuous):
    policy = probes.gaussian_dropout_policy() if is_continuous else probes.dropout_policy()
    env = probes.Wander(is_continuous=is_continuous)
    run = rlscan.train(policy, env, CONFIG, total_steps=96, key=rlscan.key(0), strict=True)
    assert all(metrics["audit_clip_fraction"] == 0 for _, metrics in run)


KINDS = {
    "noise": probes.noise_policy,
    "conv": probes.conv_policy,
    "attention": probes.attention_policy,
    "recurrent": probes.Recurrent,
    "gaussian": probes.gaussian_dropout_policy,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_update_of_a_whole_run_begins_at_a_ratio_of_1(kind):
    """This holds for every kind of noise and late in training, when a mismatch would show."""
    policy, env = KINDS[kind](), probes.Wander(is_continuous=kind == "gaussian")
    config = dataclasses.replace(CONFIG, num_envs=8, num_steps=16, num_minibatches=4)
    run = partial(rlscan.train, policy, env, config, total_steps=60 * 128, key=rlscan.key(0))
    rows = [metrics for _, metrics in run(updates_per_call=20, strict=True)]
    assert all(row["audit_clip_fraction"] == 0 for row in rows)
    assert np.mean([row["approx_kl"] for row in rows]) > 1e-4  # there was something to learn


# `explain_ratio`: why the ratio is not 1.


@pytest.fixture(scope="module")
def rolled() -> Any:
    policy, env = probes.dropout_policy(), probes.Wander()
    state = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    return policy, env, eqx.filter_jit(rlscan.rollout)(policy, env, state, T)[1]


def test_nothing_to_explain(rolled):
    policy, env, trajectory = rolled
    assert explain_ratio(policy, env, trajectory) is None


def test_other_parameters(rolled):
    policy, env, trajectory = rolled
    moved = eqx.tree_at(lambda p: p.actor.bias, policy, policy.actor.bias + jnp.arange(3.0))
    cause = explain_ratio(moved, env, trajectory)
    assert cause is not None and cause.startswith("stale statistics or other parameters")


def test_dropout_switched_off_after_the_rollout(rolled):
    policy, env, trajectory = rolled
    quiet = eqx.nn.inference_mode(policy)
    state = rlscan.init_rollout(quiet, env, num_envs=N, key=rlscan.key(0))
    _, without = eqx.filter_jit(rlscan.rollout)(quiet, env, state, T)
    cause = explain_ratio(policy, env, without)
    assert cause is not None and cause.startswith("dropout was on in one")


class Hidden(eqx.Module):
    """A policy with noise from NumPy, drawn when it is traced."""

    inner: Any

    def __call__(self, observation, state, *, key):
        return self.inner(observation + np.random.normal(), state, key=key)

    def initial_state(self):
        return ()


def test_randomness_not_drawn_from_the_key(rolled):
    policy, env, trajectory = rolled
    cause = explain_ratio(Hidden(policy), env, trajectory)
    assert cause is not None and cause.startswith("randomness that is not drawn from `key`")


class Half(eqx.Module):
    """A policy that computes in bfloat16, as one on an accelerator may."""

    inner: Any

    def __call__(self, observation, state, *, key):
        low = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, self.inner
        )
        features = low.body(observation.astype(jnp.bfloat16), key=key)
        logits = low.actor(features).astype(jnp.float32)
        return distrax.Categorical(logits=logits), low.critic(features)[0].astype(jnp.float32), ()

    def initial_state(self):
        return ()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_policy_in_16_bits_trains_within_its_documented_tolerance():
    policy, env = Half(probes.dropout_policy()), probes.Wander()
    run = rlscan.train(policy, env, CONFIG, total_steps=128, key=rlscan.key(0), strict=0.05)
    assert all(metrics["audit_clip_fraction"] == 0 for _, metrics in run)


@pytest.mark.slow
def test_parameters_in_16_bits_train():
    policy: Any = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, probes.dropout_policy()
    )
    policy = Half(policy)
    run = rlscan.train(policy, probes.Wander(), CONFIG, total_steps=32, key=rlscan.key(0))
    ((state, _),) = run
    trained: Any = state.policy
    weight = trained.inner.actor.weight
    assert weight.dtype == jnp.bfloat16 and (weight != policy.inner.actor.weight).any()
    moments = [x for x in jax.tree.leaves(state.opt_state) if jnp.ndim(x) == 1]  # one flat vector
    assert moments and all(x.dtype == jnp.float32 for x in moments)


@pytest.mark.slow
def test_rounding_in_16_bits_is_named(rolled):
    policy, env, _ = rolled
    half = Half(policy)
    state = rlscan.init_rollout(half, env, num_envs=N, key=rlscan.key(0))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(half, env, state, T)
    rounded = dataclasses.replace(trajectory, log_prob=trajectory.log_prob + 0.004)
    cause = explain_ratio(half, env, rounded)
    assert cause is not None and cause.startswith("rounding: the policy computes in 16 bits")


def test_a_relative_error_is_relative_to_its_own_log_probability():
    log_ratio, old = jnp.array([1e-3, 0.0, 0.0]), jnp.array([-0.5, -100.0, -3.0])
    np.testing.assert_allclose(relative_error(log_ratio, old), 1e-3)
    np.testing.assert_allclose(relative_error(log_ratio[::-1], -old), 1e-3 / 3)
