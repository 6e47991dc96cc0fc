"""Small policies with noise, and the unrolling of a policy step by step over recorded steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._conformance import apply

_WIDTH = 16


class DropoutPolicy(eqx.Module):
    """One hidden layer with dropout. Discrete actions, or Gaussian ones much wider than the box.

    The defaults fit `rlscan.testing.Walk`; `num_inputs=1, num_actions=2` fits the probes.
    """

    hidden: eqx.nn.Linear
    """The hidden layer."""
    dropout: eqx.nn.Dropout
    """The dropout after it."""
    actor: eqx.nn.Linear
    """The layer whose outputs are logits or means."""
    critic: eqx.nn.Linear
    """The layer whose output is the value."""
    is_continuous: bool = eqx.field(static=True)
    """Whether actions are Gaussian."""

    def __init__(
        self,
        num_inputs: int = 3,
        num_actions: int = 3,
        *,
        rate: float = 0.5,
        is_continuous: bool = False,
        seed: int = 0,
    ):
        keys = jax.random.split(jax.random.key(seed), 3)
        self.hidden = eqx.nn.Linear(num_inputs, _WIDTH, key=keys[0])
        self.dropout = eqx.nn.Dropout(rate)
        self.actor = linear_of_gain_3(_WIDTH, num_actions, keys[1])
        self.critic = linear_of_gain_3(_WIDTH, 1, keys[2])
        self.is_continuous = is_continuous

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax  # not at the top, because importing it takes a second

        features = self.dropout(jnp.tanh(self.hidden(observation)), key=key)
        value, output = self.critic(features)[0], self.actor(features)
        if not self.is_continuous:
            return distrax.Categorical(logits=output), value, state
        normal = distrax.Normal(output, 0.5 * jnp.ones_like(output))
        return distrax.Independent(normal, 1), value, state

    def initial_state(self) -> tuple:
        return ()


class RecurrentPolicy(eqx.Module):
    """A GRU with dropout on its input and on its output.

    Its state starts at 0.1 and not at 0, so that a missing reset changes the result.
    """

    cell: eqx.nn.GRUCell
    """The recurrent core."""
    dropout: eqx.nn.Dropout
    """The dropout of its input and of its output."""
    actor: eqx.nn.Linear
    """The layer whose outputs are logits."""
    critic: eqx.nn.Linear
    """The layer whose output is the value."""

    def __init__(
        self, num_inputs: int = 3, num_actions: int = 3, rate: float = 0.25, seed: int = 0
    ):
        keys = jax.random.split(jax.random.key(seed), 3)
        self.cell = eqx.nn.GRUCell(num_inputs, _WIDTH, key=keys[0])
        self.dropout = eqx.nn.Dropout(rate)
        self.actor = linear_of_gain_3(_WIDTH, num_actions, keys[1])
        self.critic = linear_of_gain_3(_WIDTH, 1, keys[2])

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax

        first, second = jax.random.split(key)
        state = self.cell(self.dropout(observation, key=first), state)
        features = self.dropout(state, key=second)
        return distrax.Categorical(logits=self.actor(features)), self.critic(features)[0], state

    def initial_state(self) -> Any:
        return jnp.full(_WIDTH, 0.1)


class Coin(eqx.Module):
    """A policy whose action is decided almost entirely by a coin that it flips with its key.

    A learned `preference` is added to the coin. The policy learns `action_reward` only if its noise
    is replayed: with another coin the recorded actions look impossible, so a trainer that stops at
    `target_kl=0.05` takes no step at all, and `preference` stays at 0 instead of passing 2.
    """

    preference: Any
    """The number that is learned: what is added to the coin."""
    value: Any
    """The value of every observation."""

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax

        coin = jax.random.rademacher(key, (), jnp.float32)
        logits = jnp.stack([jnp.zeros(()), 2 * coin + self.preference])
        return distrax.Categorical(logits=logits), self.value, state

    def initial_state(self) -> tuple:
        return ()


def linear_of_gain_3(num_inputs: int, num_outputs: int, key: Any) -> eqx.nn.Linear:
    """An output layer with a gain of about 3.

    A trained policy starts from a gain of 0.01, with which all masks give nearly the same output
    and a wrong one goes unnoticed.
    """
    linear = eqx.nn.Linear(num_inputs, num_outputs, key=key)
    return eqx.tree_at(lambda layer: layer.weight, linear, 3 * linear.weight)


# The reference for rollout and replay.


class Steps(NamedTuple):
    """The fields of a trajectory that the checks read, `[T, N, …]`."""

    observation: Any
    action: Any
    log_prob: Any
    reward: Any
    terminated: Any
    truncated: Any
    policy_key: Any


def read(trajectory: Any) -> Steps:
    """The fields of a trajectory, whatever its class."""
    return Steps(*(getattr(trajectory, name) for name in Steps._fields))


def join(first: Any, second: Any) -> Steps:
    """The steps of two rollouts, one after the other."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), read(first), read(second))


class Unrolled(NamedTuple):
    """The outputs of a policy for recorded steps, `[T, N]` in float64, and its states."""

    log_prob: np.ndarray
    entropy: np.ndarray
    value: Any  # a pytree of [T, N, …]
    after: list[list[Any]]  # [T][N]: the policy's state after the step, before any reset
    last: list[Any]  # [N]: the state at the start of the next step


# `call(observation, action, state, key) -> (log_prob, entropy, value, state)`, for one step.
Call = Callable[[Any, Any, Any, Any], tuple]


def call_of(policy: Any) -> Call:
    """A policy as a function of one recorded step."""
    return partial(apply, _evaluate, policy)


def _evaluate(policy: Any, observation: Any, action: Any, state: Any, key: Any) -> tuple:
    distribution, value, state = policy(observation, state, key=key)
    return distribution.log_prob(action), distribution.entropy(), value, state


@jax.jit
def _at(tree: Any, t: Any, n: Any) -> Any:
    return jax.tree.map(lambda x: x[t, n], tree)


def unroll(call: Call, initial_state: Any, first: list[Any], steps: Any) -> Unrolled:
    """Call a policy for one recorded step after the other, each with its recorded key.

    The state is reset before a step if the step before it ended an episode.

    **Arguments:**

    - `call`: the policy, see `call_of`.
    - `initial_state`: the state at the start of an episode.
    - `first`: the state of each environment before its first step, `[N]`.
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
            observation, action, key = _at(inputs, t, n)
            *numbers[:, t, n], values[t][n], state = call(observation, action, state, key)
            after[t][n] = state
            state = initial_state if done[t, n] else state
        last[n] = state
    rows = [jax.tree.map(lambda *x: np.stack(x), *row) for row in values]
    value = jax.tree.map(lambda *x: np.stack(x), *rows)
    return Unrolled(numbers[0], numbers[1], value, after, last)
