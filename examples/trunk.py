"""A policy: a trunk that actor and critic share, with BatchNorm and dropout.

    rlscan train --policy examples.trunk.make --policy.width 32 --policy.dropout 0.2

`BatchNorm` keeps running statistics in an `eqx.nn.State`, so `rlscan.nn.WithStatistics` goes around
the network. The masks of dropout are drawn from the policy's key, and replay draws them again.
"""

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import rlscan


class Trunk(eqx.Module):
    """Two layers for actor and critic together, then a linear layer for each."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear

    def __init__(self, env, width: int, dropout: float, *, key):
        keys = jax.random.split(key, 4)
        first, _ = jax.eval_shape(env.reset, jax.random.key(0))
        size = sum(x.size for x in jax.tree.leaves(_numbers(first)))
        self.first = eqx.nn.Linear(size, width, key=keys[0])
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        self.second = eqx.nn.Linear(width, width, key=keys[1])
        self.dropout = eqx.nn.Dropout(dropout)
        self.actor = eqx.nn.Linear(width, env.action_space().n, key=keys[2])
        self.critic = eqx.nn.Linear(width, 1, key=keys[3])

    def __call__(self, observation, state, statistics, *, key):
        x, _ = ravel_pytree(_numbers(observation))
        x, statistics = self.norm(self.first(x), statistics)
        x = self.dropout(jax.nn.tanh(self.second(jax.nn.tanh(x))), key=key)
        logits, mask = self.actor(x), rlscan.policies.action_mask(observation)
        logits = logits if mask is None else jnp.where(mask, logits, -1e9)
        return distrax.Categorical(logits=logits), self.critic(x)[0], state, statistics

    def initial_state(self):
        return ()


def _numbers(observation):
    """The observation without its action mask, which is no input of the network."""
    if not isinstance(observation, dict):
        return observation
    return {name: x for name, x in observation.items() if name != "action_mask"}


def make(env, width: int = 64, dropout: float = 0.1, *, key):
    """Make the policy; a config names this function."""
    return rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Trunk)(env, width, dropout, key=key))
