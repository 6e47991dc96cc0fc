"""Encoders of a user: any module that maps an observation to a vector."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import probes
import pytest
from sequences import lively

import rlscan
from rlscan.policies import ActorCritic, Encoder, RecurrentActorCritic, TransformerActorCritic
from rlscan.testing import Box, Discrete

ENV, KEY = probes.Wander(), rlscan.key(0)
T, N = 6, 4
KINDS: dict[str, Any] = {
    "mlp": partial(ActorCritic, hidden_sizes=(8,)),
    "gru": partial(RecurrentActorCritic, hidden_size=8, hidden_sizes=(8,)),
    "transformer": partial(
        TransformerActorCritic, context_length=3, num_layers=1, num_heads=2, embed_size=8
    ),
}


class Noisy(eqx.Module):
    """An encoder with dropout, which says its size."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    size: int = eqx.field(static=True, default=6)

    def __init__(self, space: Any, *, key: Any):
        self.linear = eqx.nn.Linear(space.shape[0], 6, key=key)
        self.dropout = eqx.nn.Dropout(0.5)
        self.size = 6

    def __call__(self, observation: Any, *, key: Any) -> Any:
        return self.dropout(jnp.tanh(self.linear(observation)), key=key)


class Normed(eqx.Module):
    """A network with running statistics, in the form of a policy's."""

    norm: eqx.nn.BatchNorm

    def __init__(self, space: Any, *, key: Any):
        self.norm = eqx.nn.BatchNorm(space.shape[0], "batch", momentum=0.5, mode="batch")

    def __call__(self, observation: Any, state: Any, statistics: Any, *, key: Any) -> tuple:
        vector, statistics = self.norm(observation, statistics)
        return vector, None, state, statistics


class Inside(eqx.Module):
    """An encoder with statistics somewhere inside, of what another layer returns."""

    linear: eqx.nn.Linear
    normed: rlscan.nn.WithStatistics

    def __init__(self, space: Any, *, key: Any):
        self.linear = eqx.nn.Linear(4, 4, key=key)
        self.normed = rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Normed)(space, key=key))

    def __call__(self, observation: Any, *, key: Any) -> Any:
        return self.normed(self.linear(observation), (), key=key)[0]


def statistics(space: Any, *, key: Any) -> Any:
    return rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Normed)(space, key=key))


def mlp(space: Any, key: Any) -> Any:
    return eqx.nn.MLP(space.shape[0], 5, 8, 1, key=key)


def build(kind: str, encoder: Any = None, env: Any = ENV, **settings: Any) -> Any:
    return KINDS[kind](env, encoder=encoder, key=KEY, **settings)


def encoders(policy: Any) -> list[Any]:
    names = ("actor_encoder", "critic_encoder", "encoder")
    return [getattr(policy, name) for name in names if hasattr(policy, name)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rlscans_own_encoder_given_by_hand_changes_no_number(kind: str) -> None:
    """It is called once for each network, with the keys that the default takes."""
    spaces: list[Any] = []

    def own(space: Any, *, key: Any) -> Encoder:
        spaces.append(space)
        activation = "gelu" if kind == "transformer" else "tanh"
        return Encoder(space, key=key, activation=activation)

    env = Pixels()
    given, default = build(kind, own, env), build(kind, None, env)
    assert len(spaces) == len(encoders(default)) and spaces[0].shape == (3, 3, 2)
    assert eqx.tree_equal(given, default)


class Pixels(eqx.Module):
    """The spaces of an environment with images."""

    def reset(self, key: Any) -> tuple: ...
    def step(self, key: Any, state: Any, action: Any) -> tuple: ...
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (3, 3, 2))

    def action_space(self) -> Discrete:
        return Discrete(3)


@eqx.filter_jit
def roll(policy: Any) -> tuple:
    state = rlscan.init_rollout(policy, ENV, num_envs=N, key=rlscan.key(1))
    _, trajectory = rlscan.rollout(policy, ENV, state, T)
    return trajectory, rlscan.replay(policy, trajectory)[0]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("gru", "transformer")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", *SLOW])
def test_noise_in_an_encoder_is_replayed(kind: str) -> None:
    policy = lively(build(kind, Noisy))
    trajectory, log_prob = roll(policy)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    other = eqx.filter_jit(rlscan.replay)(eqx.nn.inference_mode(policy), trajectory)[0]
    assert abs(other - trajectory.log_prob).max() > 0.01


@pytest.mark.slow
def test_an_encoder_without_noise_takes_nothing_from_the_others() -> None:
    """The key of its noise is derived, so all other masks are as they are without it."""

    class Silent(eqx.Module):
        def __call__(self, observation: Any, *, key: Any) -> Any:
            return observation

    settings: Any = {"dropout": 0.5, "critic_dropout": 0.5}
    for kind in ("mlp", "gru"):
        policies = [build(kind, e, **settings) for e in (None, lambda space, key: Silent())]
        first, second = (call(policy) for policy in policies)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def call(policy: Any) -> tuple:
    distribution, value, _ = policy(jnp.ones(4), policy.initial_state(), key=rlscan.key(2))
    return distribution.logits, value


def test_the_key_of_an_encoder_is_that_of_no_other_layer() -> None:
    """The masks of both encoders are equal if actor and critic share theirs."""
    seen: list[Any] = []

    class Keyed(eqx.Module):
        def __call__(self, observation: Any, *, key: Any) -> Any:
            seen.append(jax.random.key_data(key))
            return observation

    settings: Any = {"encoder": lambda space, key: Keyed(), "dropout": 0.5}
    call(ActorCritic(ENV, **settings, key=KEY))
    assert (seen[-1] != seen[-2]).any()
    call(ActorCritic(ENV, **settings, shared_masks=True, key=KEY))
    assert (seen[-1] == seen[-2]).all()
    children = jax.random.split(jax.random.split(rlscan.key(2), 3)[0], 64)
    assert not (jax.random.key_data(children) == seen[-1]).all(axis=-1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_that_is_not_declared_is_found(kind: str) -> None:
    policy = build(kind, mlp)
    first = policy.actor.layers[0] if kind == "mlp" else None
    assert encoders(policy)[0].out_size == 5
    assert first is None or first.in_features == 5
    assert kind != "transformer" or policy.embedding.in_features == 5


@pytest.mark.parametrize("encoder", [statistics, Inside])
def test_statistics_in_encoders_move_by_what_they_are_given(encoder: Any) -> None:
    policy = build("mlp", encoder)
    trajectory, log_prob = roll(policy)
    np.testing.assert_allclose(log_prob, trajectory.log_prob, atol=1e-5)
    moved: Any = eqx.filter_jit(rlscan.move_statistics)(policy, trajectory)
    seen = np.asarray(trajectory.observation, np.float64).reshape(-1, 4)
    for before, after in zip(encoders(policy), encoders(moved), strict=True):
        given = seen
        if encoder is Inside:
            given = seen @ np.asarray(before.linear.weight).T + np.asarray(before.linear.bias)
        holder = after.normed if encoder is Inside else after.network
        mean, variance = holder.statistics.get(holder.network.norm.batch_state_index)
        np.testing.assert_allclose(mean, 0.5 * given.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, 0.5 + 0.5 * given.var(axis=0), rtol=1e-4)
    params, _ = rlscan.nn.partition_trainable(policy)
    assert eqx.tree_equal(rlscan.nn.partition_trainable(moved)[0], params)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_with_noise_and_statistics_in_the_encoder(kind: str) -> None:
    config = rlscan.ppo.PPOConfig(num_envs=N, num_steps=T, num_minibatches=2, num_epochs=2)
    policy = rlscan.policies.NormalizedObservations(build(kind, Inside, dropout=0.2), ENV)
    state: Any = rlscan.ppo.init_train(policy, ENV, config, key=KEY)
    update = eqx.filter_jit(rlscan.ppo.update)
    for _ in range(2):
        before = state
        state, metrics = update(state, ENV, config, num_updates=jnp.asarray(2))
        assert metrics["audit_error"] <= 1e-5 and metrics["approx_kl"] > 0
        pairs = zip(*(encoders(s.policy.policy) for s in (before, state)), strict=True)
        for old, new in pairs:
            assert not eqx.tree_equal(old.normed.statistics, new.normed.statistics)


class Form(eqx.Module):
    """Encoders that do not fit."""

    def __call__(self, observation: Any) -> Any:
        return observation[None]


class Failing(eqx.Module):
    def __call__(self, observation: Any) -> Any:
        return observation.position


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch off the suite's own check of types, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "encoder, kind, told",
    [
        (lambda space, key: jnp.tanh, TypeError, r"<lambda>\(space, key=key\) must give an eqx.Mo"),
        (
            eqx.nn.make_with_state(Normed),
            TypeError,
            r"must give an eqx.Module, got a tuple; put both into rlscan.nn.WithStatistics\(",
        ),
        (7, TypeError, "encoder must be a class or a function, called as encoder"),
        (eqx.nn.Identity(), TypeError, r"got Identity\(\); pass the class"),
        (lambda space, key: Form(), ValueError, r"vector of floats \[size\], got .*jnp.ravel"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(encoder: Any, kind: Any, told: str) -> None:
    with pytest.raises(kind, match=told):
        build("mlp", encoder)


def test_a_class_with_other_arguments_is_told_how_it_is_called() -> None:
    with pytest.raises(TypeError) as raised:
        build("mlp", eqx.nn.Linear)
    assert "lambda space, key: Linear(…, key=key)" in raised.value.__notes__[-1]


def test_a_size_that_cannot_be_found_is_asked_for() -> None:
    with pytest.raises(AttributeError) as raised:
        build("mlp", lambda space, key: Failing())
    assert any("give it an attribute `size`" in note for note in raised.value.__notes__)

    class Sized(Failing):
        size: int = eqx.field(static=True, default=3)

    assert build("mlp", lambda space, key: Sized()).actor.layers[0].in_features == 3


def test_settings_of_the_own_encoder_are_refused_beside_another() -> None:
    with pytest.raises(ValueError, match=r"encoder = Noisy and num_channels = \[8\]; give one"):
        build("mlp", Noisy, num_channels=[8])
    sizes = iter((4, 5))
    with pytest.raises(ValueError, match="one size for the actor and the critic, got 4 and 5"):
        build("mlp", lambda space, key: eqx.nn.Linear(4, next(sizes), key=key))
