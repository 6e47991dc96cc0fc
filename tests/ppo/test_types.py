"""The types that a checker finds for a caller; pyright reads this file."""

from functools import partial
from typing import Any, assert_type, get_origin

import equinox as eqx
import probes

import rlscan
from rlscan.nn._mlp import MLP
from rlscan.policies import ActorCritic
from rlscan.ppo import Metrics, PPOConfig, Training, TrainState

ENV = probes.Wander()
CONFIG = PPOConfig(num_envs=2, num_steps=4, num_minibatches=2, num_epochs=1)


class Sums(eqx.Module):
    """An algorithm whose state is a number."""

    steps_per_update: int = 10

    def init(self, policy: Any, env: Any, key: Any) -> float:
        return 0.0

    def update(self, state: float) -> tuple[float, dict[str, float]]:
        return state + 1, {"sum": state}


def types_of_a_caller(policy: ActorCritic, key: Any) -> None:
    """It is not called: a type checker reads it."""
    from_policy = rlscan.train(policy, ENV, CONFIG, total_steps=16, key=key)
    assert_type(from_policy, Training[TrainState[ActorCritic]])
    make = partial(ActorCritic, ENV, hidden_sizes=(4,))
    from_factory = rlscan.train(make, ENV, CONFIG, total_steps=16, key=key, strict=True)
    assert_type(from_factory.state.policy, ActorCritic)
    assert_type(from_factory.state.policy.actor, MLP)
    for state, metrics in from_factory:
        assert_type(state, TrainState[ActorCritic])
        assert_type(metrics, dict[str, Any])
    goes_on = rlscan.train(None, ENV, CONFIG, total_steps=16, state=from_policy.state)
    assert_type(goes_on.state, TrainState[ActorCritic])
    ppo = rlscan.ppo.PPO(CONFIG, total_steps=16)
    assert_type(rlscan.train(policy, ENV, ppo, total_steps=16, key=key).state.policy, ActorCritic)
    assert_type(ppo.init(policy, ENV, key), TrainState[ActorCritic])
    assert_type(ppo.update(goes_on.state), tuple[TrainState[ActorCritic], Metrics])
    other = rlscan.train(policy, ENV, Sums(), total_steps=16, key=key)
    assert_type(other, Training[float])
    first = rlscan.ppo.init_train(policy, ENV, CONFIG, key=key)
    assert_type(first.policy, ActorCritic)
    after, numbers = rlscan.ppo.update(first, ENV, CONFIG, num_updates=2)
    assert_type(after.policy, ActorCritic)
    assert_type(numbers, Metrics)
    last, _ = rlscan.ppo.train_scan(policy, ENV, CONFIG, total_steps=16, key=key)
    assert_type(last, TrainState[ActorCritic])


def settings_of_a_caller(rates: Any) -> None:
    """A schedule is taken where it may stand, and a loss reads a number."""
    cosine = rlscan.ppo.Schedule("cosine", start=3e-4, warmup=2)
    config = PPOConfig(learning_rate=cosine, gamma=lambda update: 0.9, value_coef=rates)
    assert_type(config.learning_rate, float)
    PPOConfig(gae_lambda=cosine)  # pyright: ignore[reportArgumentType]


def test_the_types_are_those_of_classes():
    assert get_origin(TrainState[ActorCritic]) is TrainState
    assert get_origin(Training[TrainState]) is Training
