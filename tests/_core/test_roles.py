"""Policies and environments in each other's place, or that JAX cannot keep, are refused."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jaxtyping
import probes
import pytest

import rlscan
from rlscan import check_policy, evaluate, init_rollout, next_value, replay, rollout

POLICY, ENV = probes.dropout_policy(), probes.Wander()
CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=4, num_minibatches=1)
KEY: Any = rlscan.key(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch off the suite's own check of types, which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "call",
    [
        check_policy,
        lambda policy, env: init_rollout(policy, env, num_envs=2, key=KEY),
        lambda policy, env: rollout(policy, env, None, 3),  # pyright: ignore
        lambda policy, env: evaluate(policy, env, num_episodes=2, key=KEY),
        lambda policy, env: rlscan.transition_bytes(policy, env, 3),
        lambda policy, env: rlscan.train(policy, env, CONFIG, total_steps=8, key=KEY),
    ],
    ids=["check", "init", "rollout", "evaluate", "bytes", "train"],
)
def test_a_policy_and_an_environment_that_are_swapped_are_told_apart(call: Callable) -> None:
    with pytest.raises(TypeError, match="policy Wander has no .* swap the two, the policy comes"):
        call(ENV, POLICY)


@pytest.mark.usefixtures("unchecked")
def test_something_else_in_place_of_a_policy_is_refused() -> None:
    for call in (lambda: replay(ENV, None), lambda: next_value(ENV, None, None, None)):  # pyright: ignore
        with pytest.raises(TypeError, match="the policy Wander has no method 'initial_state'"):
            call()
    with pytest.raises(TypeError, match="environment Feedforward has no method 'reset'; it is the"):
        check_policy(POLICY, POLICY)
    with pytest.raises(TypeError, match="int has no method 'reset'; see rlscan.Environment"):
        check_policy(POLICY, 1)


class Still:
    """`Wander` in a class without fields."""

    reset, step = ENV.reset, ENV.step
    observation_space, action_space = ENV.observation_space, ENV.action_space


@dataclasses.dataclass
class Plain(Still):
    speed: Any = 1.0


@dataclasses.dataclass(frozen=True)
class Frozen(Still):
    speed: Any = 1.0


class Module(rlscan.envs.Wrapper):
    layout: Any = eqx.field(static=True, default=())


@pytest.mark.parametrize(
    "env, told",
    [
        (Plain(), "env is not: unhashable type: 'Plain'; make the class an eqx.Module"),
        (Frozen([1]), "env is not: unhashable type: 'list'.* hold tuples"),
        (rlscan.envs.Wrapper(Plain()), "env.env is not: unhashable type: 'Plain'"),
    ],
    ids=["plain", "list", "wrapped"],
)
def test_an_environment_that_cannot_be_hashed_is_refused(env: Any, told: str) -> None:
    with pytest.raises(TypeError, match=f"an environment must be hashable.*{told}"):
        check_policy(POLICY, env)


@pytest.mark.parametrize("env", [Still(), Frozen(), Module(ENV, [1]), Module(Frozen())])
def test_an_environment_that_can_be_hashed_is_accepted(env: Any) -> None:
    check_policy(POLICY, env)


# A state of another environment.


def state_of(policy: Any, env: Any) -> Any:
    return eqx.filter_eval_shape(lambda: init_rollout(policy, env, num_envs=2, key=KEY))


@pytest.mark.parametrize(
    "policy, env, told",
    [
        (POLICY, rlscan.make("CartPole-v1"), r"state.env_state must have the structure .*EnvState"),
        (POLICY, rlscan.envs.FrameStack(ENV, 2), "state.env_state must have the structure"),
        (probes.Recurrent(), ENV, "state.policy_state must have the structure of policy.initial"),
    ],
    ids=["other", "wrapped", "policy"],
)
def test_a_state_of_another_environment_or_policy_is_named(
    policy: Any, env: Any, told: str
) -> None:
    def roll(state: Any) -> Any:
        return rollout(policy, env, state, 3)

    with pytest.raises(
        ValueError, match=f"of its own environment and policy: {told}.*init_rollout"
    ):
        eqx.filter_eval_shape(roll, state_of(POLICY, ENV))


def test_other_errors_of_a_rollout_stay_as_they_are() -> None:
    class Breaks(rlscan.envs.Wrapper):
        def step(self, key: Any, state: Any, action: Any) -> Any:
            raise RuntimeError("of my own")

    state = state_of(POLICY, ENV)
    with pytest.raises(RuntimeError, match="of my own"):
        eqx.filter_eval_shape(lambda state: rollout(POLICY, Breaks(ENV), state, 3), state)
