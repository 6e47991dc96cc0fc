"""A policy unrolled by hand over recorded steps: the reference for rollout and replay."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._apply import apply


class Steps(NamedTuple):
    """What is read of a trajectory, `[T, N, …]`."""

    observation: Any
    action: Any
    log_prob: Any
    reward: Any
    terminated: Any
    truncated: Any
    policy_key: Any


def read(trajectory: Any) -> Steps:
    return Steps(*(getattr(trajectory, name) for name in Steps._fields))


def join(first: Any, second: Any) -> Steps:
    """The steps of two rollouts, one after the other."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), read(first), read(second))


class Unrolled(NamedTuple):
    """What a policy says of recorded steps, `[T, N]` in float64, and the states it goes through."""

    log_prob: np.ndarray
    entropy: np.ndarray
    value: Any  # a pytree of [T, N, …]
    after: list[list[Any]]  # [T][N]: the policy's state after the step, before any reset
    last: list[Any]  # [N]: the state that the next step begins with


# `call(observation, action, state, key) -> (log_prob, entropy, value, state)`, for one step.
Call = Callable[[Any, Any, Any, Any], tuple]


def call_of(policy: Any) -> Call:
    """A policy as a function of one recorded step."""

    return partial(apply, _evaluate, policy)


def _evaluate(policy: Any, observation: Any, action: Any, state: Any, key: Any) -> tuple:
    distribution, value, state = policy(observation, state, key=key)
    return distribution.log_prob(action), distribution.entropy(), value, state


@jax.jit
def _pick(tree: Any, t: Any, n: Any) -> Any:
    return jax.tree.map(lambda x: x[t, n], tree)


def unroll(call: Call, initial_state: Any, first: list[Any], steps: Any) -> Unrolled:
    """One environment after the other, one step after the other, each with its recorded key.

    The state is reset before a step where the step before it ended an episode.

    **Arguments:**

    - `call`: the policy, see `call_of`.
    - `initial_state`: that of an episode's start.
    - `first`: the state that each environment begins with, `[N]`.
    - `steps`: a trajectory, or `Steps`.
    """
    inputs = steps.observation, steps.action, steps.policy_key
    done = np.asarray(steps.terminated) | np.asarray(steps.truncated)
    num_steps, num_envs = done.shape
    numbers, after = np.zeros((2, num_steps, num_envs)), [[None] * num_envs for _ in done]
    values, last = [[None] * num_envs for _ in done], list(first)
    for n in range(num_envs):
        state = first[n]
        for t in range(num_steps):
            seen, action, key = _pick(inputs, t, n)
            *numbers[:, t, n], values[t][n], state = call(seen, action, state, key)
            after[t][n] = state
            state = initial_state if done[t, n] else state
        last[n] = state
    rows = [jax.tree.map(lambda *x: np.stack(x), *row) for row in values]
    value = jax.tree.map(lambda *x: np.stack(x), *rows)
    return Unrolled(numbers[0], numbers[1], value, after, last)
