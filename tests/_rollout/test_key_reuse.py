"""No key is drawn from twice, as JAX's own checker has it. Replay does so on purpose, and says so
by `jax.random.clone`."""

from typing import Any

import distrax
import equinox as eqx
import jax
import probes
import pytest
from jax.errors import KeyReuseError

import rlscan

CONFIG = rlscan.PPOConfig(num_envs=2, num_steps=8, num_epochs=2, num_minibatches=2)


@pytest.fixture(autouse=True)
def checker():
    with jax.debug_key_reuse(True):
        yield


# The checker compiles slowly: what is not in the quick suite is in `.ci/run`.
@pytest.mark.slow
@pytest.mark.parametrize(
    "policy, schedule",
    [
        (probes.dropout_policy(), "step"),
        pytest.param(probes.dropout_policy(), "rollout", marks=pytest.mark.slow),
        pytest.param(probes.Recurrent(), "step", marks=pytest.mark.slow),
        pytest.param(probes.Recurrent(), "episode", marks=pytest.mark.slow),
        pytest.param(
            rlscan.RecurrentActorCritic(
                probes.Wander(), dropout=0.1, recurrent_dropout=0.1, key=rlscan.key(0)
            ),
            "step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            rlscan.TransformerActorCritic(probes.Wander(), gated=True, key=rlscan.key(0)),
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
@pytest.mark.parametrize("impl", [rlscan.mix32, "threefry2x32"], ids=str)
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


# The checker bites.


class Twice(eqx.Module):
    """A policy with one key for two layers."""

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
    """Draws an action by the key of its masks: the two are no longer independent."""

    inner: Any

    def __call__(self, observation, state, *, key):
        distribution, value, state = self.inner(observation, state, key=key)
        action = distribution.sample(seed=key)
        return distrax.Categorical(logits=distribution.logits + 0 * action), value, state

    def initial_state(self):
        return ()


def test_an_action_that_is_drawn_by_the_key_of_the_masks_is_found():
    with pytest.raises(KeyReuseError):
        rlscan.init_rollout(
            ActionByMaskKey(probes.dropout_policy()), probes.Wander(), num_envs=2, key=rlscan.key(0)
        )
