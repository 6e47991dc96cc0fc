"""The policies of the study: dropout in the actor, none in the critic."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import rlscan
from rlscan.nn import AnnealedDropout


def feed_forward(env: rlscan.Environment, activation: str, *, key: PRNGKeyArray) -> Any:
    """`ActorCritic` of 2 × 64 units, with dropout after both hidden layers of the actor.

    Images are flattened.
    """
    policy = rlscan.policies.ActorCritic(
        env, hidden_sizes=(64, 64), activation=activation, num_channels=(), key=key
    )
    return eqx.tree_at(lambda p: p.actor.dropout, policy, AnnealedDropout(0.0))


class Recurrent(eqx.Module):
    """A GRU shared by actor and critic; each reads its state through its own hidden layer.

    Only the actor has dropout: on the state of the GRU as the actor reads it, and after the
    actor's hidden layer. The GRU's memory is never dropped, and the value has no noise.
    """

    cell: eqx.nn.GRUCell
    actor: tuple[eqx.nn.Linear, eqx.nn.Linear]
    critic: tuple[eqx.nn.Linear, eqx.nn.Linear]
    dropout: AnnealedDropout

    def __init__(self, env: rlscan.Environment, num_units: int = 32, *, key: PRNGKeyArray):
        cell_key, *keys = jax.random.split(key, 5)
        (num_inputs,) = env.observation_space().shape
        self.cell = eqx.nn.GRUCell(num_inputs, num_units, key=cell_key)
        head = eqx.nn.Linear(num_units, env.action_space().n, key=keys[1])
        # Nearly uniform actions at the start, as in ActorCritic.
        head = eqx.tree_at(lambda h: (h.weight, h.bias), head, replace_fn=lambda x: 0.01 * x)
        self.actor = (eqx.nn.Linear(num_units, num_units, key=keys[0]), head)
        self.critic = (
            eqx.nn.Linear(num_units, num_units, key=keys[2]),
            eqx.nn.Linear(num_units, 1, key=keys[3]),
        )
        self.dropout = AnnealedDropout(0.0)

    def __call__(
        self, observation: Any, state: Any, *, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, ""], Any]:
        import distrax

        state_key, hidden_key = jax.random.split(key)
        state = self.cell(observation, state)
        x = self.dropout(state, key=state_key)
        x = self.dropout(jnp.tanh(self.actor[0](x)), key=hidden_key)
        value = self.critic[1](jnp.tanh(self.critic[0](state)))
        return distrax.Categorical(logits=self.actor[1](x)), value[0], state

    def initial_state(self) -> Float[Array, " units"]:
        return jnp.zeros(self.cell.hidden_size)
