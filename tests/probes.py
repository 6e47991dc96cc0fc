"""Environments and small policies with every kind of noise, including those of `rlscan.testing`.

Everything here follows rlscan's contracts and is independent of any suite of environments.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jax.nn import one_hot

from rlscan.testing import (
    Box,
    Coin as Coin,
    Discrete,
    Probe as Probe,
    RecurrentPolicy,
    action_reward as action_reward,
    any_of as any_of,
    both as both,
    both_flags as both_flags,
    constant_reward as constant_reward,
    leak as leak,
    memory as memory,
    observation_reward as observation_reward,
    truncation as truncation,
    two_step as two_step,
)
from rlscan.testing._environments import finish
from rlscan.testing._policies import linear_of_gain_3


class Wander(eqx.Module):
    """A random walk of four numbers that terminates and truncates, sometimes in the same step.

    Its reset returns a Python number, which its step turns into an array.
    """

    limit: int = eqx.field(static=True, default=7)
    time_limit: int | None = eqx.field(static=True, default=7)  # the declared limit
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
    """An environment whose integer reward is the action it received. Observations are a dict.

    Its state resets to the Python integer 0, and becomes a float in a step.
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
    """A body with any kind of noise, and two linear heads with a gain of about 1.

    A gain of 0.01, from which training starts, would hide a wrong mask.
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


def Recurrent(num_inputs: int = 4, num_actions: int = 3, rate: float = 0.25) -> RecurrentPolicy:
    """A recurrent policy for `Wander`, which has one number more than `rlscan.testing.Walk`."""
    return RecurrentPolicy(num_inputs, num_actions, rate)


class GaussianNoise(eqx.Module):
    """A user's own layer, which adds noise with a learned scale."""

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
    """A random policy whose value is the masks of its two dropout layers, `True` if kept."""

    rate: float
    is_recurrent: bool = eqx.field(static=True, default=False)

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        keys = jax.random.split(key)
        layer = eqx.nn.Dropout(self.rate)
        masks = tuple(layer(jnp.ones(64), key=k) > 0 for k in keys)
        return distrax.Categorical(logits=jnp.zeros(2)), masks, state

    def initial_state(self) -> Any:
        return jnp.zeros(()) if self.is_recurrent else ()


class OneNumber(eqx.Module):
    """A Gaussian far wider than the action box, for dict observations."""

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
    actor = linear_of_gain_3(num_features, num_actions, actor_key)
    return Feedforward(body, actor, linear_of_gain_3(num_features, 1, critic_key))


def _distribution(output: Any, is_continuous: bool) -> Any:
    if is_continuous:
        return distrax.Independent(distrax.Normal(output, 0.3 * jnp.ones_like(output)), 1)
    return distrax.Categorical(logits=output)


def wide_generator() -> Any:
    """A generator whose keys have four words: threefry with each key twice."""

    def half(words: Any) -> Any:
        return jax.random.wrap_key_data(words[:2], impl="threefry2x32")

    def twice(keys: Any) -> Any:
        return jnp.tile(jax.random.key_data(keys), 2)

    return define_prng_impl(
        key_shape=(4,),
        seed=lambda seed: twice(jax.random.key(seed, impl="threefry2x32")),
        split=lambda key, shape: twice(jax.random.split(half(key), shape)),
        random_bits=lambda key, width, shape: jax.random.bits(half(key), shape, f"uint{width}"),
        fold_in=lambda key, data: twice(jax.random.fold_in(half(key), data)),
        name="wide",
        tag="wide",
    )
