"""Gymnasium's environments, and spaces that are attributes, are refused with the edit to make."""

from collections.abc import Callable
from typing import Any

import gymnasium
import jaxtyping
import probes
import pytest

import rlscan
from rlscan.testing import Box, ConformanceError, Discrete, check_environment

KEY: Any = rlscan.key(0)
POLICY = probes.dropout_policy(num_actions=2)


@pytest.fixture(autouse=True)
def unchecked():
    """Switch off the suite's own check of types, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Attributes(probes.Wander):
    """An environment whose spaces are attributes of the class."""

    observation_space: Any = Box(-1.0, 1.0, (4,))
    action_space: Any = Discrete(2)


class Properties(probes.Wander):
    """An environment whose spaces are properties, as gymnax's old ones and Gymnasium's are."""

    @property
    def observation_space(self) -> Any:  # pyright: ignore
        return Box(-1.0, 1.0, (4,))

    @property
    def action_space(self) -> Any:  # pyright: ignore
        return Discrete(2)


class Half(probes.Wander):
    """An environment with one space that is a property."""

    @property
    def action_space(self) -> Any:  # pyright: ignore
        return Discrete(2)


TOLD = {
    "attributes": (
        Attributes(),
        r"Attributes.observation_space must be a method that returns the space, got an attribute, "
        r"Box\(.*\); write def observation_space\(self\): return …",
    ),
    "properties": (
        Properties(),
        r"Properties.observation_space must be a method .*, got a property, Box\(.*\); remove its "
        "@property",
    ),
    "half": (Half(), r"Half.action_space must be a method .*, got a property, Discrete\(n=2\)"),
    "gymnasium": (
        gymnasium.make("CartPole-v1"),
        "is a Gymnasium environment, which Python steps outside of JAX.* use rlscan.make",
    ),
    "unwrapped": (gymnasium.make("CartPole-v1").unwrapped, "CartPoleEnv is a Gymnasium env"),
}
SMALL: dict[str, Any] = {"num_heads": 1, "embed_size": 8}

# What may see an environment first.
SEERS: dict[str, Callable[[Any], Any]] = {
    "mlp": lambda env: rlscan.policies.ActorCritic(env, key=KEY),
    "gru": lambda env: rlscan.policies.RecurrentActorCritic(env, key=KEY),
    "transformer": lambda env: rlscan.policies.TransformerActorCritic(env, **SMALL, key=KEY),
    "normalized": lambda env: rlscan.policies.NormalizedObservations(POLICY, env),
    "wrapper": lambda env: rlscan.envs.FrameStack(env, 2),
    "check": lambda env: rlscan.check_policy(POLICY, env),
    "init": lambda env: rlscan.init_rollout(POLICY, env, num_envs=2, key=KEY),
    "rollout": lambda env: rlscan.rollout(POLICY, env, None, 3),  # pyright: ignore
    "evaluate": lambda env: rlscan.evaluate(POLICY, env, num_episodes=2, key=KEY),
}


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("seer", SEERS)
def test_whoever_sees_it_first_names_the_edit(seer: str, kind: str) -> None:
    env, told = TOLD[kind]
    with pytest.raises(TypeError, match=told):
        SEERS[seer](env)


@pytest.mark.parametrize("kind", TOLD)
def test_the_check_of_an_environment_names_the_edit(kind: str) -> None:
    env, told = TOLD[kind]
    with pytest.raises(ConformanceError, match=told):
        check_environment(env)


def test_the_check_names_a_missing_method() -> None:
    spaces = rlscan.envs.Spaces(Box(-1.0, 1.0, (4,)), Discrete(2))
    with pytest.raises(ConformanceError, match=r"must have the method reset\(key\); got a Spaces"):
        check_environment(spaces)
    for env in (3, "CartPole-v1"):
        told = "has no method 'observation_space'; "
        told += r"make it: rlscan.make\('CartPole-v1'\)" if isinstance(env, str) else "see rlscan"
        with pytest.raises(ConformanceError, match=told):
            check_environment(env)
        with pytest.raises(TypeError, match=told):
            SEERS["mlp"](env)
    with pytest.raises(TypeError, match=r"wrap it: rlscan.envs.GymnaxEnvironment\(env, params\)"):
        SEERS["mlp"](rlscan.make("CartPole-v1").env)  # pyright: ignore
    with pytest.raises(TypeError, match="must be an object, got the class Wander; build one"):
        SEERS["mlp"](probes.Wander)
