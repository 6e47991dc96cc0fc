"""What is called again in one process compiles nothing and takes no more memory."""

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest
from compilations import count_compilations

import rlscan

NUM_CALLS = 20
MOST_BYTES = 2**19  # in a call; programs that are kept take several times as much


def policy_for(env: Any, kind: str = "ActorCritic") -> Any:
    return partial(getattr(rlscan.policies, kind), env, hidden_sizes=(4,))


def train(i: int) -> None:
    """As in a tuning loop: everything is made again, and a number differs."""
    env = rlscan.make("CartPole-v1")
    numbers: dict[str, Any] = {"learning_rate": 1e-3 / (i + 1), "gamma": 0.9 + i / 1000}
    config = rlscan.ppo.PPOConfig(num_steps=8, num_epochs=1, num_minibatches=2, **numbers)
    for _ in rlscan.train(policy_for(env), env, config, total_steps=64, key=rlscan.key(i)):
        pass


def acting(i: int, kind: str = "ActorCritic") -> tuple[Any, Any]:
    env = rlscan.make("CartPole-v1")
    return policy_for(env, kind)(key=rlscan.key(i)), env


def evaluate(i: int) -> None:
    policy, env = acting(i)
    rlscan.evaluate(policy, env, num_episodes=2, key=rlscan.key(i), max_steps=4)


def rollout(i: int) -> Any:
    policy, env = acting(i)
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(i))
    return policy, rlscan.rollout(policy, env, state, 4)[1]


def replay(i: int) -> None:
    rlscan.replay(*rollout(i))


def replay_sequences(i: int) -> None:
    policy, env = acting(i, "RecurrentActorCritic")
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(i))
    rlscan.replay(policy, rlscan.rollout(policy, env, state, 4)[1])


def jitted_updates(i: int) -> None:
    policy, env = acting(i)
    config = rlscan.ppo.PPOConfig(num_steps=8, num_epochs=1, num_minibatches=2)
    state = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(i))
    for _ in range(2):
        state, _ = eqx.filter_jit(rlscan.ppo.update)(state, env, config, num_updates=2)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
@pytest.mark.parametrize(
    "call", [train, evaluate, rollout, replay, replay_sequences, jitted_updates]
)
def test_calls_with_equal_shapes_compile_nothing_and_keep_nothing(call: Callable[[int], Any]):
    for i in range(3):
        call(i)
    before = resident_bytes()
    with count_compilations() as names:
        for i in range(3, 3 + NUM_CALLS):
            call(i)
    assert not names
    assert resident_bytes() - before < NUM_CALLS * MOST_BYTES


def test_a_step_outside_of_compiled_functions_is_compiled_once():
    def play(env: Any) -> None:
        state = env.reset(rlscan.key(0))[1]
        for action in (0, 1, 0):
            state = env.step(rlscan.key(1), state, action)[1]

    play(rlscan.make("CartPole-v1", gravity=3.7))
    with count_compilations() as names:
        play(rlscan.make("CartPole-v1", gravity=3.7))
    assert not names


def test_a_jitted_step_is_the_step():
    env = rlscan.make("Pendulum-v1")
    state, action = env.reset(rlscan.key(0))[1], jax.numpy.ones(1)
    found = env.step(rlscan.key(1), state, action)
    wanted = jax.jit(env.step)(rlscan.key(1), state, action)
    assert eqx.tree_equal(found, wanted)
