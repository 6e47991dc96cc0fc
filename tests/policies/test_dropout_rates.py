"""Rates of dropout: their defaults, and rates that are arrays, traced or mapped over."""

import inspect
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from compilations import count_compilations
from sequences import lively

import rlscan
from rlscan.nn import AnnealedDropout, NonTrainable, VariationalDropoutCell
from rlscan.policies import ActorCritic, RecurrentActorCritic, TransformerActorCritic

ENV = probes.Wander()
RATES = (0.1, 0.25, 0.6)

# Each kind of policy at one rate everywhere, so that every mask of it depends on the rate.
KINDS: dict[str, Any] = {
    "mlp": lambda rate: ActorCritic(
        ENV, hidden_sizes=(8,), dropout=rate, critic_dropout=rate, key=rlscan.key(0)
    ),
    "shared": lambda rate: ActorCritic(
        ENV, hidden_sizes=(8,), dropout=rate, shared_masks=True, key=rlscan.key(0)
    ),
    "gru": lambda rate: RecurrentActorCritic(
        ENV,
        hidden_size=8,
        hidden_sizes=(8,),
        dropout=rate,
        critic_dropout=rate,
        recurrent_dropout=rate,
        key=rlscan.key(0),
    ),
    "transformer": lambda rate: TransformerActorCritic(
        ENV,
        context_length=3,
        num_layers=1,
        num_heads=2,
        embed_size=8,
        dropout=rate,
        attention_dropout=rate,
        key=rlscan.key(0),
    ),
}


@pytest.mark.parametrize("kind", [ActorCritic, RecurrentActorCritic, TransformerActorCritic])
def test_dropout_is_off_unless_it_is_asked_for(kind: Any) -> None:
    rates = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if "dropout" in name
    }
    assert "dropout" in rates and set(rates.values()) <= {0.0, None}
    policy = eqx.filter_eval_shape(kind, ENV, key=rlscan.key(0))
    layers = jax.tree.leaves(policy, is_leaf=lambda node: isinstance(node, eqx.nn.Dropout))
    found = [layer.p for layer in layers if isinstance(layer, eqx.nn.Dropout)]
    assert found and not any(found)


# Rates that are arrays.


def call(policy: Any, key: Any) -> tuple:
    """Log-probabilities and value of the second step."""
    first_key, second_key = jax.random.split(key)
    *_, state = policy(jnp.ones(4), policy.initial_state(), key=first_key)
    distribution, value, _ = policy(jnp.arange(1.0, 5.0), state, key=second_key)
    return distribution.logits, value


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("gru", "transformer")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", *SLOW])
def test_masks_do_not_depend_on_what_holds_the_rate(kind: str) -> None:
    keys = jax.random.split(rlscan.key(1), 16)
    of_rate = lambda rate: jax.vmap(partial(call, lively(KINDS[kind](rate))))(keys)  # noqa: E731
    mapped = jax.jit(jax.vmap(of_rate))(jnp.asarray(RATES))
    for got, wanted in zip(mapped, jax.jit(lambda: of_rate(RATES[1]))(), strict=True):
        np.testing.assert_allclose(got[1], wanted, rtol=1e-4, atol=1e-4)
        assert min(abs(got[0] - wanted).max(), abs(got[2] - wanted).max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        rlscan.nn.DropPath,
        rlscan.nn.ChannelDropout,
        rlscan.nn.GaussianDropout,
        rlscan.nn._dropout.dropout_layer,
    ],
)
def test_noise_of_an_array_rate_is_that_of_the_number(layer: Any) -> None:
    x, keys = jnp.arange(1.0, 65.0), jax.random.split(rlscan.key(0), 8)
    one = lambda p: jax.vmap(lambda key: layer(p)(x, key=key))(keys)  # noqa: E731
    for rate, got in zip(RATES, jax.vmap(one)(jnp.asarray(RATES)), strict=True):
        np.testing.assert_array_equal(got == 0, one(rate) == 0)
        np.testing.assert_allclose(got, one(rate), rtol=1e-6)
    narrow = layer(jnp.asarray(0.5))(x.astype(jnp.bfloat16), key=rlscan.key(0))
    assert narrow.dtype == jnp.bfloat16


@pytest.mark.slow
def test_episode_masks_of_an_array_rate_are_those_of_the_number() -> None:
    cell = eqx.nn.GRUCell(32, 32, key=jax.random.key(0))

    def masks(rate: Any) -> tuple:
        layer = VariationalDropoutCell(cell, rate, rate)
        state = layer(jnp.ones(32), layer.initial_state(), key=rlscan.key(1))
        return state.input_mask, state.hidden_mask

    got = jax.jit(jax.vmap(masks))(jnp.asarray(RATES))
    for mask, wanted in zip(got, masks(RATES[1]), strict=True):
        np.testing.assert_array_equal(mask[1], wanted)
        assert (mask[0] != wanted).any() and (mask[2] != wanted).any()


def roll(rate: Any) -> tuple:
    """`(log_prob of 8 steps, that of their replay)` with a policy of this rate."""
    policy = lively(KINDS["mlp"](rate))
    state = rlscan.init_rollout(policy, ENV, num_envs=2, key=rlscan.key(2))
    _, trajectory = rlscan.rollout(policy, ENV, state, 8)
    return trajectory.log_prob, rlscan.replay(policy, trajectory)[0]


@pytest.mark.slow
def test_a_sweep_over_rates_is_one_program() -> None:
    one, many = eqx.filter_jit(roll), eqx.filter_jit(eqx.filter_vmap(roll))
    rates = jnp.asarray(RATES)
    alone = [one(rates[0])]
    with count_compilations() as names:
        alone += [one(rate) for rate in (rates[1], rates[2])]
    assert not any("roll" in name for name in names)
    acted, replayed = many(rates)
    np.testing.assert_allclose(acted, np.stack([log_prob for log_prob, _ in alone]), rtol=1e-4)
    np.testing.assert_allclose(acted, replayed, atol=1e-5)
    assert abs(acted[0] - acted[2]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_the_optimiser_does_not_see_a_rate(kind: str) -> None:
    policy = KINDS[kind](jnp.asarray(0.25))
    params, rest = rlscan.nn.partition_trainable(policy)
    is_rate = lambda node: isinstance(node, NonTrainable)  # noqa: E731
    rates = [x for x in jax.tree.leaves(rest, is_leaf=is_rate) if is_rate(x)]
    assert rates and all(rate.value == 0.25 for rate in rates)
    assert all(leaf.shape for leaf in jax.tree.leaves(params))
    assert jax.tree.leaves(rlscan.nn.anneal(rest, 7)) == jax.tree.leaves(rest)


def test_shared_masks_of_a_schedule_are_those_of_one() -> None:
    schedule = optax.linear_schedule(0.5, 0.1, 4)
    policy = ActorCritic(ENV, dropout=schedule, shared_masks=True, key=rlscan.key(0))
    assert isinstance(policy.critic.dropout, AnnealedDropout)
    assert policy.critic.dropout.schedule is schedule


@pytest.mark.parametrize(
    "rate, told",
    [
        (jnp.asarray(1.0), "must be in [0, 1), got 1.0; 0 switches it off"),
        (jnp.asarray([0.1, 0.2]), "must be a number in [0, 1), got an array of shape (2,); "),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_are_no_rate_are_refused(kind: str, rate: Any, told: str) -> None:
    with pytest.raises(ValueError) as raised:
        KINDS[kind](rate)
    assert f"dropout {told}" in str(raised.value)
    if rate.shape:
        with pytest.raises(ValueError) as raised:
            jax.eval_shape(lambda rate: call(KINDS[kind](rate), rlscan.key(0)), rate)
        assert f"dropout {told}" in str(raised.value)


def test_shared_masks_need_rates_that_are_known_to_be_equal() -> None:
    def make(rate: Any, critic_rate: Any) -> Any:
        return ActorCritic(
            ENV, dropout=rate, critic_dropout=critic_rate, shared_masks=True, key=rlscan.key(0)
        )

    assert make(jnp.asarray(0.5), jnp.asarray(0.5)).shared_masks
    for rates in ((jnp.asarray(0.5), 0.25), (jnp.asarray(0.0), jnp.asarray(0.0))):
        with pytest.raises(ValueError, match="equal rates above 0.*leave critic_dropout out"):
            make(*rates)
    with pytest.raises(ValueError, match="equal rates above 0.*leave critic_dropout out"):
        jax.eval_shape(lambda x, y: make(x, y).actor.layers[0].weight, *jnp.asarray([0.5, 0.5]))
