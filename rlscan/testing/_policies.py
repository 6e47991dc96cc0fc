"""Small policies with noise of their own, to run an agent's parts with.

Their output layers have a gain of about 3, not the 0.01 that a trained policy starts from: with
that all masks say nearly the same, and a wrong one does not show.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

_WIDTH = 16


class DropoutPolicy(eqx.Module):
    """One hidden layer with dropout. Discrete actions, or Gaussian ones far wider than a box.

    Made for `rlscan.testing.Walk`; `num_inputs=1, num_actions=2` is for the probes.
    """

    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear
    is_continuous: bool = eqx.field(static=True)

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
        import distrax  # takes a second, so not at the top

        features = self.dropout(jnp.tanh(self.hidden(observation)), key=key)
        value, output = self.critic(features)[0], self.actor(features)
        if not self.is_continuous:
            return distrax.Categorical(logits=output), value, state
        normal = distrax.Normal(output, 0.5 * jnp.ones_like(output))
        return distrax.Independent(normal, 1), value, state

    def initial_state(self) -> tuple:
        return ()


class RecurrentPolicy(eqx.Module):
    """A GRU with dropout on what it reads and on what it says.

    Its state starts at 0.1 and not at 0: one that was never reset must show.
    """

    cell: eqx.nn.GRUCell
    dropout: eqx.nn.Dropout
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear

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
    """A coin of its own decides nearly all that it does, and what it learns adds to that.

    It learns `action_reward` only if its noise is replayed: under another coin its actions look
    impossible, so that a trainer with a KL stop (`target_kl=0.05`) takes no step at all, and
    `preference` stays 0, where it should pass 2.
    """

    preference: Any
    value: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax

        coin = jax.random.rademacher(key, (), jnp.float32)
        logits = jnp.stack([jnp.zeros(()), 2 * coin + self.preference])
        return distrax.Categorical(logits=logits), self.value, state

    def initial_state(self) -> tuple:
        return ()


def linear_of_gain_3(num_inputs: int, num_outputs: int, key: Any) -> eqx.nn.Linear:
    linear = eqx.nn.Linear(num_inputs, num_outputs, key=key)
    return eqx.tree_at(lambda layer: layer.weight, linear, 3 * linear.weight)
