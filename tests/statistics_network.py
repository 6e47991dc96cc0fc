"""A network whose layers keep running statistics, for tests of several rooms."""

from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan

MOMENTUM = 0.9


class Network(eqx.Module):
    """A network with a BatchNorm, a SpectralNorm and dropout, and optionally a recurrent cell."""

    first: eqx.nn.Linear
    batch_norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm
    dropout: eqx.nn.Dropout
    heads: eqx.nn.Linear
    cell: eqx.nn.GRUCell | None

    def __init__(self, *, mode: Any = "batch", is_recurrent: bool = False):
        keys = jax.random.split(jax.random.key(0), 5)
        self.first = eqx.nn.Linear(4, 8, key=keys[0])
        self.batch_norm = eqx.nn.BatchNorm(8, "batch", momentum=MOMENTUM, mode=mode)
        linear = eqx.nn.Linear(8, 8, key=keys[1])
        self.spectral = eqx.nn.SpectralNorm(linear, "weight", key=keys[2])
        self.dropout = eqx.nn.Dropout(0.5)
        self.heads = eqx.nn.Linear(8, 4, key=keys[3])
        self.cell = eqx.nn.GRUCell(4, 4, key=keys[4]) if is_recurrent else None

    def __call__(self, observation, state, statistics, *, key):
        if self.cell is not None:
            observation = state = self.cell(observation, state)
        hidden, statistics = self.batch_norm(self.first(observation), statistics)
        hidden, statistics = self.spectral(jnp.tanh(hidden), statistics)
        output = 3 * self.heads(self.dropout(hidden, key=key))
        return distrax.Categorical(logits=output[:3]), output[3], state, statistics

    def initial_state(self):
        return () if self.cell is None else jnp.full(4, 0.2)


def make_policy(**settings) -> Any:
    return rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Network)(**settings))
