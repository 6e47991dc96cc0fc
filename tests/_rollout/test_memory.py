"""Bytes per transition: the formula, `transition_bytes` and real trajectories agree."""

import math
from typing import Any

import equinox as eqx
import jax
import probes
import pytest

import rlscan


def bytes_of(tree: Any) -> int:
    """The bytes of real arrays. Keys count by their words."""
    words = [
        jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]
    return sum(x.nbytes for x in words)


def trajectory_of(policy: Any, env: Any, num_steps: int, num_envs: int, key: Any) -> Any:
    state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=key)
    return eqx.filter_jit(rlscan.rollout)(policy, env, state, num_steps)[1]


def formula(
    num_steps: int, limit: int | None, *, o: int, a: int, k: int = 8, v: int = 0, s: int = 0
) -> float:
    """The formula in the docstring of `rlscan.Trajectory`."""
    num_slots = math.ceil(num_steps / min(limit or 1, num_steps))
    return o + a + v + k + 18 + (num_slots * (o + s + k + 4) + s) / num_steps


def actor_critic(name: str) -> tuple[Any, Any]:
    env = rlscan.make(name)
    return rlscan.policies.ActorCritic(env, dropout=0.5, hidden_sizes=(4,), key=rlscan.key(0)), env


# The bytes of an observation, an action, a value and a state, by hand. Numbers take 4 bytes, but
# Breakout's 10 × 10 × 4 pixels take one each. The recurrent policy is a GRU of 16 units.
CASES = {
    "CartPole": (lambda: actor_critic("CartPole-v1"), 500, {"o": 16, "a": 4}),
    "Breakout": (lambda: actor_critic("Breakout-MinAtar"), 1000, {"o": 400, "a": 4}),
    "Pendulum": (lambda: actor_critic("Pendulum-v1"), 200, {"o": 12, "a": 4}),
    "recurrent": (
        lambda: (probes.Recurrent(), probes.Wander()),
        7,
        {"o": 16, "a": 4, "v": 4, "s": 64},
    ),
    "a dict, no limit": (
        lambda: (probes.OneNumber(jax.numpy.zeros(())), probes.WhatWasSent()),
        None,
        {"o": 12, "a": 4},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_trajectory_has_the_size_of_the_formula(name: str) -> None:
    make, limit, sizes = CASES[name]
    policy, env = make()
    num_steps, num_envs, key = 24, 3, rlscan.key(1)
    measured = bytes_of(trajectory_of(policy, env, num_steps, num_envs, key))
    told = rlscan.transition_bytes(policy, env, num_steps)
    assert measured == pytest.approx(num_steps * num_envs * told)
    assert measured == pytest.approx(num_steps * num_envs * formula(num_steps, limit, **sizes))


def test_the_size_is_told_without_a_rollout() -> None:
    told = rlscan.transition_bytes(probes.dropout_policy(), probes.Wander(), 9)
    assert told == pytest.approx(formula(9, 7, o=16, a=4))


@pytest.mark.slow
def test_the_generator_determines_the_size_of_keys() -> None:
    policy, env, key = probes.dropout_policy(), probes.Wander(), rlscan.key(0)
    wide = rlscan.key(0, generator=probes.wide_generator())
    told = rlscan.transition_bytes(policy, env, 7, key=wide)
    assert told == pytest.approx(formula(7, 7, o=16, a=4, k=16))
    assert bytes_of(trajectory_of(policy, env, 7, 2, wide)) == pytest.approx(7 * 2 * told)
    assert rlscan.transition_bytes(policy, env, 7, key=key) < told


@pytest.mark.slow
def test_the_size_does_not_depend_on_the_network() -> None:
    """A trajectory stores keys, not the masks drawn from them."""
    env = rlscan.make("CartPole-v1")
    policies = [
        rlscan.policies.ActorCritic(env, dropout=rate, hidden_sizes=sizes, key=rlscan.key(0))
        for rate, sizes in ((0.0, (4,)), (0.5, (256, 256, 256)))
    ]
    small, large = (rlscan.transition_bytes(policy, env, 8) for policy in policies)
    assert small == large == 46 + (16 + 8 + 4) / 8


@pytest.mark.parametrize("num_steps", [0, True])
def test_bad_counts_are_refused(num_steps: Any) -> None:
    with pytest.raises(ValueError, match="num_steps must be a positive integer"):
        rlscan.transition_bytes(probes.dropout_policy(), probes.Wander(), num_steps)
