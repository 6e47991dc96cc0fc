"""Side effects that JAX cannot map over environments are refused, with their place."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import probes
import pytest
from jax.experimental import io_callback

import rlscan
from rlscan import check_policy


def count(*_: Any) -> None: ...


def ordered(key: Any) -> None:
    io_callback(count, None, jax.random.bits(key), ordered=True)


def unordered(key: Any) -> None:
    io_callback(count, None, jax.random.bits(key))


def printed(key: Any) -> None:
    jax.debug.print("{}", jax.random.bits(key))


def nothing(key: Any) -> None: ...


class Noisy(eqx.Module):
    """`Wander` with side effects in its reset, its step and its branch."""

    reset_effect: Callable = nothing
    step_effect: Callable = nothing
    env: probes.Wander = probes.Wander()

    def reset(self, key: Any) -> Any:
        self.reset_effect(key)
        return self.env.reset(key)

    def step(self, key: Any, state: Any, action: Any) -> Any:
        self.step_effect(key)
        stepped = self.env.step(key, state, action)
        begun = rlscan.envs.reset_where(stepped[3], lambda: self.reset(key), stepped[:2])
        return *begun, *stepped[2:]

    def observation_space(self) -> Any:
        return self.env.observation_space()

    def action_space(self) -> Any:
        return self.env.action_space()


@pytest.mark.parametrize(
    "env, told",
    [
        (Noisy(unordered), r"io_callback \(IOEffect\) at .*test_effects.py:\d+:\d+ \(unordered\)"),
        (Noisy(ordered), r"io_callback \(OrderedIOEffect\) at .*\(ordered\)"),
        (Noisy(nothing, ordered), r"io_callback \(OrderedIOEffect\) at .*\(ordered\)"),
    ],
    ids=["reset", "ordered reset", "ordered step"],
)
def test_an_effect_that_cannot_be_mapped_is_refused(env: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"Noisy.reset or step is mapped .* got {told}, which JAX"):
        check_policy(probes.dropout_policy(), env)


def test_an_effect_of_a_policy_is_refused_alike() -> None:
    class Counting(eqx.Module):
        inner: Any = probes.dropout_policy()

        def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
            ordered(key)
            return self.inner(observation, state, key=jax.random.clone(key))

        def initial_state(self) -> Any:
            return ()

    with pytest.raises(ValueError, match="Counting.__call__ .*OrderedIOEffect"):
        check_policy(Counting(), probes.Wander())


@pytest.mark.parametrize("env", [Noisy(printed, printed), Noisy(nothing, unordered)])
def test_effects_that_can_be_mapped_are_accepted(env: Any) -> None:
    check_policy(probes.dropout_policy(), env)
