"""purejaxrl's recurrent PPO, under a flax that is newer than it, and with the workload's sizes."""
# pyright: reportMissingImports=false

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

WRITTEN_IN, SIZE = 128, 64  # the size that is written into purejaxrl's file, and the workload's

Dense, GRUCell = nn.Dense, nn.GRUCell


class Cell(nn.Module):
    """flax's GRU with the interface of 0.6, which finds its size in the state."""

    @nn.compact
    def __call__(self, state: Any, x: Any) -> Any:
        return GRUCell(features=state.shape[-1])(state, x)

    @staticmethod
    def initialize_carry(key: Any, batch_shape: tuple[int, ...], size: int) -> Any:
        return jnp.zeros((*batch_shape, SIZE))


def dense(features: int, **settings: Any) -> nn.Dense:
    return Dense(SIZE if features == WRITTEN_IN else features, **settings)


nn.Dense, nn.GRUCell = dense, Cell
import ppo_rnn  # noqa: E402  after the names that it uses are replaced

gymnax, make_train = ppo_rnn.gymnax, ppo_rnn.make_train


def make_network(num_actions: int) -> Any:
    return ppo_rnn.ActorCriticRNN(num_actions, config={})


def act(network: Any, params: Any, state: Any, observation: Any) -> tuple[Any, Any]:
    """The next state of the GRU `[1, size]`, and the distribution for one observation."""
    inputs = observation[None, None], jnp.zeros((1, 1), bool)  # no episode ends: one is played
    state, distribution, _ = network.apply(params, state, inputs)
    return state, distribution[0, 0]


def initial_state() -> Any:
    return Cell.initialize_carry(None, (1,), SIZE)
