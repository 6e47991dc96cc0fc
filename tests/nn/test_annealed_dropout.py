"""Dropout whose rate is an array, which no gradient step changes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest

import rlscan
from rlscan.nn import AnnealedDropout, anneal

SCHEDULE = optax.linear_schedule(0.6, 0.0, 4)


def annealed_policy(p: Any = SCHEDULE) -> Any:
    policy: Any = probes.dropout_policy()
    return eqx.tree_at(lambda m: m.body.layers[2], policy, AnnealedDropout(p))


def rate(policy: Any) -> float:
    return float(policy.body.layers[2].p)


def test_it_is_dropout_of_the_same_rate():
    x, key = jnp.arange(1.0, 101.0), rlscan.key(0)
    for p in (0.1, 0.5, 0.9):
        expected = eqx.nn.Dropout(p)(x, key=key)
        np.testing.assert_allclose(AnnealedDropout(p)(x, key=key), expected, rtol=1e-6)
    np.testing.assert_array_equal(AnnealedDropout(0.0)(x, key=key), x)
    off = eqx.nn.inference_mode(AnnealedDropout(0.5))
    np.testing.assert_array_equal(off(x), x)
    assert "random_bits" not in str(jax.make_jaxpr(lambda x, k: off(x, key=k))(x, key))


def test_a_rate_can_be_mapped_over():
    x = jnp.ones(10_000)

    @eqx.filter_vmap
    def kept(p):
        return (AnnealedDropout(p)(x, key=rlscan.key(0)) > 0).mean()

    rates = jnp.array([0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(kept(rates), 1 - rates, atol=0.02)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_training_follows_the_schedule_in_one_program():
    config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, num_minibatches=2, learning_rate=0.01)
    counted = eqx.debug.assert_max_traces(rlscan.ppo.update, max_traces=None)
    update, env = eqx.filter_jit(counted), probes.Wander()
    state = rlscan.ppo.init_train(annealed_policy(), env, config, key=rlscan.key(0))
    rates = []
    for _ in range(5):
        state, metrics = update(state, env, config, num_updates=jnp.asarray(5))
        rates.append(rate(state.policy))
        assert metrics["audit_error"] <= 1e-5 and metrics["approx_kl"] > 0
    np.testing.assert_allclose(rates, [0.6, 0.45, 0.3, 0.15, 0.0], atol=1e-6)
    assert eqx.debug.get_num_traces(counted) == 1


@pytest.mark.slow
def test_neither_gradient_nor_weight_decay_reaches_the_rate():
    policy = annealed_policy(0.5)
    params, rest = rlscan.nn.partition_trainable(policy)
    assert not any(leaf.shape == () for leaf in jax.tree.leaves(params))
    optimiser = optax.adamw(0.1, weight_decay=0.5)

    def loss(params):
        return eqx.combine(params, rest)(jnp.ones(4), (), key=rlscan.key(0))[1] ** 2

    updates, _ = optimiser.update(jax.grad(loss)(params), optimiser.init(params), params)
    moved: Any = eqx.combine(optax.apply_updates(params, updates), rest)
    assert rate(moved) == 0.5
    assert (moved.critic.weight != policy.critic.weight).all()


@pytest.mark.slow
def test_a_rate_that_only_looks_trainable_gets_no_gradient():
    """Users filter by `eqx.is_inexact_array`, as is usual with Equinox."""

    @eqx.filter_grad
    def gradient(policy):
        return policy(jnp.ones(4), (), key=rlscan.key(0))[1] ** 2

    assert rate(gradient(annealed_policy(0.5))) == 0


def test_anneal_changes_only_scheduled_rates():
    both = (AnnealedDropout(SCHEDULE), AnnealedDropout(0.2), eqx.nn.Dropout(0.3))
    moved = anneal(both, 2)
    np.testing.assert_allclose([moved[0].p, moved[1].p, moved[2].p], [0.3, 0.2, 0.3], rtol=1e-6)


def test_actor_critic_takes_a_schedule():
    env = rlscan.make("CartPole-v1")
    policy = rlscan.policies.ActorCritic(
        env, dropout=SCHEDULE, critic_dropout=0.2, key=rlscan.key(0)
    )
    assert isinstance(policy.actor.dropout, AnnealedDropout)
    assert isinstance(policy.critic.dropout, eqx.nn.Dropout)
    np.testing.assert_allclose(anneal(policy, 3).actor.dropout.p, 0.15, rtol=1e-6)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2])
def test_an_invalid_rate_is_refused(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\)"):
        AnnealedDropout(p)


@pytest.mark.parametrize("p", [jnp.float32(1.5), optax.linear_schedule(1.5, 0.0, 10), jnp.nan])
def test_an_invalid_rate_of_any_type_is_refused(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\)"):
        rlscan.nn.AnnealedDropout(p)


def test_narrow_activations_stay_narrow():
    layer = rlscan.nn.AnnealedDropout(0.5)
    assert layer(jnp.ones(4, jnp.bfloat16), key=rlscan.key(0)).dtype == jnp.bfloat16
