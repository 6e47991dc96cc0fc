"""No key is used twice, according to JAX's own checker.

Replay reuses keys on purpose, and marks this by `jax.random.clone`.
"""

from typing import Any

import distrax
import equinox as eqx
import jax
import probes
import pytest
from jax.errors import KeyReuseError

import rlscan

CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8, num_epochs=2, num_minibatches=2)


@pytest.fixture(autouse=True)
def checker():
    with jax.debug_key_reuse(True):
        yield


def noisy_encoder(space, *, key):
    return eqx.nn.Sequential([eqx.nn.Linear(4, 8, key=key), eqx.nn.Dropout(0.5)])


# The checker compiles slowly, so some cases are not in the quick suite.
@pytest.mark.slow
@pytest.mark.parametrize(
    "policy, schedule",
    [
        (probes.dropout_policy(), "step"),
        pytest.param(probes.dropout_policy(), "rollout", marks=pytest.mark.slow),
        pytest.param(probes.Recurrent(), "step", marks=pytest.mark.slow),
        pytest.param(probes.Recurrent(), "episode", marks=pytest.mark.slow),
        pytest.param(
            rlscan.policies.RecurrentActorCritic(
                probes.Wander(), dropout=0.1, recurrent_dropout=0.1, key=rlscan.key(0)
            ),
            "step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            rlscan.policies.ActorCritic(
                probes.Wander(), encoder=noisy_encoder, dropout=0.1, key=rlscan.key(0)
            ),
            "step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            rlscan.policies.TransformerActorCritic(
                probes.Wander(),
                gated=True,
                dropout=0.1,
                attention_dropout=0.1,
                key=rlscan.key(0),
            ),
            "step",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rollouts_and_replays(policy, schedule):
    env = probes.Wander()
    rollout = eqx.filter_jit(
        lambda policy, state: rlscan.rollout(policy, env, state, 8, key_schedule=schedule)
    )
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    state, _ = rollout(policy, state)
    state, trajectory = rollout(policy, state)
    replay = eqx.filter_jit(rlscan.replay)
    replay(policy, trajectory)
    _, _, value = replay(policy, trajectory)
    rlscan.next_value(policy, state, trajectory, value)


@pytest.mark.slow
@pytest.mark.parametrize("impl", [rlscan.random.mix32, "threefry2x32"], ids=str)
def test_training(impl):
    policy, env = probes.dropout_policy(), probes.Wander()
    key = jax.random.key(0, impl=impl)
    assert len(list(rlscan.train(policy, env, CONFIG, total_steps=32, key=key))) == 2


@pytest.mark.slow
def test_evaluation():
    rlscan.evaluate(
        probes.dropout_policy(),
        probes.Wander(),
        num_episodes=2,
        num_masks=2,
        key=rlscan.key(0),
        network="mc-dropout",
    )


# The checker finds planted defects.


class Twice(eqx.Module):
    """A policy that uses one key for two layers."""

    inner: Any

    def __call__(self, observation, state, *, key):
        noisy = observation + jax.random.normal(key, observation.shape)
        return self.inner(noisy, state, key=key)

    def initial_state(self):
        return ()


@pytest.mark.slow
def test_a_policy_that_draws_twice_from_its_key_is_found():
    with pytest.raises(KeyReuseError):
        rlscan.init_rollout(
            Twice(probes.dropout_policy()), probes.Wander(), num_envs=2, key=rlscan.key(0)
        )


class ActionByMaskKey(eqx.Module):
    """Draw an action with the key of the masks, so that the two are not independent."""

    inner: Any

    def __call__(self, observation, state, *, key):
        distribution, value, state = self.inner(observation, state, key=key)
        action = distribution.sample(seed=key)
        return distrax.Categorical(logits=distribution.logits + 0 * action), value, state

    def initial_state(self):
        return ()


def test_an_action_drawn_with_the_key_of_the_masks_is_found():
    with pytest.raises(KeyReuseError):
        rlscan.init_rollout(
            ActionByMaskKey(probes.dropout_policy()), probes.Wander(), num_envs=2, key=rlscan.key(0)
        )
