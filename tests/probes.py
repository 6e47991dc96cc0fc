"""Environments whose values are known, and small policies with noise of every kind.

Everything here keeps rlscan's contracts and takes nothing from a suite of environments.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import one_hot


class Discrete(NamedTuple):
    n: int


class Box(NamedTuple):
    low: float
    high: float
    shape: tuple[int, ...]


def finish(env: Any, key: Any, observation: Any, state: Any, reward: Any, ends: tuple) -> tuple:
    """The six values of a step, with the reset that the contract asks for."""
    terminated, truncated = ends
    pick = partial(jax.tree.map, partial(jnp.where, terminated | truncated))
    new_observation, new_state = env.reset(key)
    return (
        pick(new_observation, observation),
        pick(new_state, state),
        reward,
        terminated,
        truncated,
        {"final_observation": observation},
    )


class Probe(eqx.Module):
    """An environment of two lines: what is seen, and how it rewards and ends.

    `look(kind, time) -> number` and `move(kind, time, action) -> (reward, terminated, truncated)`,
    where an episode's kind is +1 or −1, by chance, and time counts its steps from 0.
    """

    look: Callable
    move: Callable
    time_limit: int | None = eqx.field(static=True, default=None)

    def reset(self, key: Any) -> tuple:
        state = jax.random.rademacher(key, (), jnp.float32), jnp.zeros((), jnp.int32)
        return self._see(*state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        (kind, time), (reward, *ends) = state, self.move(*state, action)
        ends = tuple(jnp.asarray(end, bool) for end in ends)
        reward = jnp.asarray(reward, jnp.float32)
        return finish(self, key, self._see(kind, time + 1), (kind, time + 1), reward, ends)

    def _see(self, kind: Any, time: Any) -> Any:
        return jnp.asarray(self.look(kind, time), jnp.float32).reshape(1)

    def observation_space(self) -> Box:
        return Box(-1.0, 1.0, (1,))

    def action_space(self) -> Discrete:
        return Discrete(2)


def any_of(probes: tuple[Probe, ...], which: Any) -> Probe:
    """The probe of a number that may be traced: one program, mapped over, trains on them all."""

    def look(*seen: Any) -> Any:
        branches = [lambda *s, p=p: jnp.asarray(p.look(*s), jnp.float32) for p in probes]
        return jax.lax.switch(which, branches, *seen)

    def move(*seen: Any) -> Any:
        def as_arrays(reward: Any, *ends: Any) -> tuple:
            return jnp.asarray(reward, jnp.float32), *(jnp.asarray(end, bool) for end in ends)

        branches = [lambda *s, p=p: as_arrays(*p.move(*s)) for p in probes]
        return jax.lax.switch(which, branches, *seen)

    return Probe(look, move)


def _nothing(kind: Any, time: Any) -> Any:
    return 0.0


def _kind(kind: Any, time: Any) -> Any:
    return kind


def _time(kind: Any, time: Any) -> Any:
    return time / 2


def _signed(action: Any) -> Any:
    return 2.0 * action - 1  # actions 0 and 1 as −1 and +1


constant_reward = Probe(_nothing, lambda kind, time, action: (1.0, True, False))  # V = 1
observation_reward = Probe(_kind, lambda kind, time, action: (kind, True, False))  # V(s) = s
# V(0) = γ, V(½) = 1
two_step = Probe(_time, lambda kind, time, action: (time, time == 1, False))
# V = 1, by action 1
action_reward = Probe(_nothing, lambda kind, time, action: (_signed(action), True, False))
# V = 1, by the action that is seen
both = Probe(_kind, lambda kind, time, action: (kind * _signed(action), True, False))
# The clock is not seen, as in Pardo's first example: V = 1 / (1 − γ), and not Σ γᵗ up to 5.
truncation = Probe(_nothing, lambda kind, time, action: (1.0, False, time == 4), time_limit=5)
# Good and bad episodes, both cut at 5: V(s) = s / (1 − γ). Whoever bootstraps from the observation
# after the reset mixes the two kinds, and finds much less.
leak = Probe(_kind, lambda kind, time, action: (kind, False, time == 4), time_limit=5)
# V(0) = 1 + γ: where both flags are set, nothing follows.
both_flags = Probe(_time, lambda kind, time, action: (1.0, time == 1, time == 1))
# Only the first observation says which action the third one asks for: V = 1 with memory, else 0.
memory = Probe(
    lambda kind, time: jnp.where(time == 0, kind, 0.0),
    lambda kind, time, action: (jnp.where(time == 2, kind * _signed(action), 0), time == 2, False),
)


class Wander(eqx.Module):
    """A random walk of four numbers that ends in both ways, at times at once. No known value.

    Resets to a Python number, which its step turns into an array.
    """

    limit: int = eqx.field(static=True, default=7)
    time_limit: int | None = eqx.field(static=True, default=7)  # what it declares
    end_above: float = eqx.field(static=True, default=0.7)
    is_continuous: bool = eqx.field(static=True, default=False)

    def reset(self, key: Any) -> tuple:
        position = 0.5 * jax.random.normal(key, (4,))
        return position, {"position": position, "time": 0}

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        move_key, reset_key = jax.random.split(key)
        push = jnp.tile(action, 2) if self.is_continuous else one_hot(action, 4)
        position = 0.8 * state["position"] + 0.3 * push
        position += 0.3 * jax.random.normal(move_key, (4,))
        time = state["time"] + 1
        ends = position[0] > self.end_above, jnp.asarray(time >= self.limit)
        after = {"position": position, "time": time}
        return finish(self, reset_key, position, after, position.sum(), ends)

    def observation_space(self) -> Box:
        return Box(-jnp.inf, jnp.inf, (4,))

    def action_space(self) -> Box | Discrete:
        return Box(-0.5, 0.5, (2,)) if self.is_continuous else Discrete(3)


class WhatWasSent(eqx.Module):
    """Gives the action that it got as a reward. Observations are a dict, and rewards integers.

    Its state resets to the Python integer 0 where it steps to a float.
    """

    def reset(self, key: Any) -> tuple:
        seen = {"at": jnp.zeros(2), "count": 0}
        return seen, {**seen, "sum": 0}

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        seen = {"at": state["at"] + action[0], "count": state["count"] + 1}
        reward = jnp.round(1000 * action[0]).astype(jnp.int32)
        ends = jnp.asarray(seen["count"] >= 3), jnp.asarray(False)
        return finish(self, key, seen, {**seen, "sum": state["sum"] + action[0]}, reward, ends)

    def observation_space(self) -> dict:
        return {"at": Box(-jnp.inf, jnp.inf, (2,)), "count": Discrete(4)}

    def action_space(self) -> Box:
        return Box(-0.5, 0.5, (1,))


class Feedforward(eqx.Module):
    """A body with noise of any kind, and two linear heads of gain about 1.

    Not the gain of 0.01 that a trained policy starts from: it would hide a wrong mask.
    """

    body: Callable  # (observation, *, key) -> features
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear
    is_continuous: bool = eqx.field(static=True, default=False)

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        features = self.body(observation, key=key)
        distribution = _distribution(self.actor(features), self.is_continuous)
        return distribution, self.critic(features)[0], state

    def initial_state(self) -> tuple:
        return ()


class Recurrent(eqx.Module):
    """A GRU with dropout on what it reads and on what it says."""

    cell: eqx.nn.GRUCell
    dropout: eqx.nn.Dropout
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear

    def __init__(self, num_inputs: int = 4, num_actions: int = 3, rate: float = 0.25, seed=0):
        keys = jax.random.split(jax.random.key(seed), 3)
        self.cell = eqx.nn.GRUCell(num_inputs, 16, key=keys[0])
        self.dropout = eqx.nn.Dropout(rate)
        self.actor = _head(16, num_actions, keys[1])
        self.critic = _head(16, 1, keys[2])

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        first, second = jax.random.split(key)
        state = self.cell(self.dropout(observation, key=first), state)
        features = self.dropout(state, key=second)
        return distrax.Categorical(logits=self.actor(features)), self.critic(features)[0], state

    def initial_state(self) -> Any:
        return jnp.full(16, 0.1)  # not 0: a state that was never reset must show


class GaussianNoise(eqx.Module):
    """A layer of a user's own: adds noise of a learnt size."""

    scale: Any

    def __call__(self, x: Any, *, key: Any) -> Any:
        return x + self.scale * jax.random.normal(key, x.shape)


class Attention(eqx.Module):
    """Self-attention with dropout over the four numbers of an observation."""

    embed: eqx.nn.Linear
    attend: eqx.nn.MultiheadAttention

    def __call__(self, x: Any, *, key: Any) -> Any:
        tokens = jax.vmap(self.embed)(x[:, None])
        return self.attend(tokens, tokens, tokens, key=key).ravel()


class Masks(eqx.Module):
    """Acts at random; its value is the masks of its two dropout layers, `True` where kept."""

    rate: float
    is_recurrent: bool = eqx.field(static=True, default=False)

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        keys = jax.random.split(key)
        layer = eqx.nn.Dropout(self.rate)
        masks = tuple(layer(jnp.ones(64), key=k) > 0 for k in keys)
        return distrax.Categorical(logits=jnp.zeros(2)), masks, state

    def initial_state(self) -> Any:
        return jnp.zeros(()) if self.is_recurrent else ()


class Coin(eqx.Module):
    """A coin of its own decides nearly all that it does, and what it learns adds to that.

    With another coin its actions look impossible: a KL stop then never lets it take a step.
    """

    preference: Any
    value: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        coin = jax.random.rademacher(key, (), jnp.float32)
        logits = jnp.stack([jnp.zeros(()), 2 * coin + self.preference])
        return distrax.Categorical(logits=logits), self.value, state

    def initial_state(self) -> tuple:
        return ()


class OneNumber(eqx.Module):
    """A Gaussian far wider than the box it acts in; reads a dict."""

    mean: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        mean = self.mean + 0.01 * (observation["at"].sum() + observation["count"])
        normal = distrax.Normal(mean[None], jnp.ones(1))
        return distrax.Independent(normal, 1), mean, state

    def initial_state(self) -> tuple:
        return ()


def dropout_policy(rate: float = 0.5, num_inputs: int = 4, num_actions: int = 3) -> Feedforward:
    keys = jax.random.split(jax.random.key(1), 2)
    layers = [
        eqx.nn.Linear(num_inputs, 16, key=keys[0]),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Dropout(rate),
    ]
    return _feedforward(eqx.nn.Sequential(layers), 16, num_actions)


def gaussian_dropout_policy() -> Feedforward:
    return dataclasses.replace(dropout_policy(num_actions=2), is_continuous=True)


def noise_policy() -> Feedforward:
    layers = [
        eqx.nn.Linear(4, 16, key=jax.random.key(2)),
        GaussianNoise(jnp.asarray(0.5)),
        eqx.nn.Lambda(jnp.tanh),
    ]
    return _feedforward(eqx.nn.Sequential(layers), 16, 3)


def conv_policy() -> Feedforward:
    layers = [
        eqx.nn.Lambda(lambda x: x[None]),
        eqx.nn.Conv1d(1, 8, kernel_size=2, key=jax.random.key(3)),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Dropout(0.25),
        eqx.nn.Lambda(jnp.ravel),
    ]
    return _feedforward(eqx.nn.Sequential(layers), 24, 3)


def attention_policy() -> Feedforward:
    keys = jax.random.split(jax.random.key(4), 2)
    attend = eqx.nn.MultiheadAttention(2, 8, dropout_p=0.5, key=keys[1])
    return _feedforward(Attention(eqx.nn.Linear(1, 8, key=keys[0]), attend), 32, 3)


def _feedforward(body: Callable, num_features: int, num_actions: int) -> Feedforward:
    actor_key, critic_key = jax.random.split(jax.random.key(5))
    actor = _head(num_features, num_actions, actor_key)
    return Feedforward(body, actor, _head(num_features, 1, critic_key))


def _head(num_inputs: int, num_outputs: int, key: Any) -> eqx.nn.Linear:
    linear = eqx.nn.Linear(num_inputs, num_outputs, key=key)
    return eqx.tree_at(lambda layer: layer.weight, linear, 3 * linear.weight)


def _distribution(output: Any, is_continuous: bool) -> Any:
    if is_continuous:
        return distrax.Independent(distrax.Normal(output, 0.3 * jnp.ones_like(output)), 1)
    return distrax.Categorical(logits=output)
