"""`VariationalDropoutCell`: a recurrent cell whose dropout masks last for a whole episode."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._core.types import PyTree
from ._dropout import Rate, as_rate, is_off, keep_where, rate_value, require_key


class VariationalDropoutState(eqx.Module):
    """The state of a cell, and the dropout masks of its episode."""

    cell: PyTree
    """The wrapped cell's own state: h, or (h, c) of an LSTM."""

    # Drawn by the first call of an episode, and constant until its end. `True` keeps an entry.
    input_mask: Bool[Array, "*N input_size"]
    """The mask of the inputs x, which lasts for the episode. `True` keeps an entry."""
    hidden_mask: Bool[Array, "*N hidden_size"]
    """The mask of h in the product with the recurrent weight, likewise."""
    drawn: Bool[Array, "*N"]
    """Whether the masks have been drawn: `False` before the first call of an episode, when they are
    placeholders."""

    @property
    def output(self) -> Float[Array, "*N hidden_size"]:
        """The hidden state h, which is the output of the cell."""
        return self.cell[0] if isinstance(self.cell, tuple) else self.cell


class VariationalDropoutCell(eqx.Module):
    """A recurrent cell with dropout on its inputs, by masks that last for an episode.

    At each step t of an episode, the products with the weights of the cell become

        W_ih (z_x ∘ x_t)    and    W_hh (z_h ∘ h_{t−1}),

    where every entry of z is 0 with probability p and 1 / (1 − p) otherwise. z_x and z_h are drawn
    by the first call of the episode, from that call's key, and are stored in the recurrent state.
    So they end when the rollout resets that state, continue from one rollout into the next, and
    are the same in replay, which starts from the recorded state. In a policy:

        def __call__(self, observation, state, *, key):
            state = self.cell(observation, state, key=key)
            return distrax.Categorical(self.actor(state.output)), self.critic(state.output), state

        def initial_state(self):
            return self.cell.initial_state()

    The state of a policy grows by one byte for each entry of x and of h. Every call draws bits, and
    all but those of the first call are discarded: under `vmap`, a `lax.cond` would run both
    branches anyway.

    If both rates are 0, or in inference mode, it behaves like the wrapped cell, and masks that have
    been drawn stay in the state. Masks are a hidden variable that outlives a step (see
    `rlscan.rollout`): let the critic read `output` like the actor.

    An alternative without a wrapper is `eqx.nn.Dropout` on the input of the cell, under the key
    schedule "episode" of the rollout, which keeps one key for the whole episode. Then the noise of
    *every* layer of the policy lasts for an episode. Do not apply it to the state of a GRU: see
    `hidden_dropout`.

    Source: Gal & Ghahramani, *A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks*, 2016, arXiv:1512.05287, the form with tied weights: one mask for all gates.
    """

    cell: Any
    """The wrapped cell."""
    input_dropout: Rate
    """The rate of z_x."""
    hidden_dropout: Rate
    """The rate of z_h."""
    inference: bool
    """Whether nothing is dropped; `eqx.nn.inference_mode` sets it."""

    def __init__(
        self,
        cell: Any,
        input_dropout: float | int | Array = 0.5,
        hidden_dropout: float | int | Array = 0.5,
        inference: bool = False,
    ):
        """**Arguments:**

        - `cell`: an `eqx.nn.GRUCell`, an `eqx.nn.LSTMCell`, or a cell of your own with the same
            signature, `cell(x, state, key=key) -> state`, and the same `input_size` and
            `hidden_size`, which applies its recurrent weight as `self.weight_hh @ h`. Its initial
            state is zeros `[hidden_size]`, unless it has a method `initial_state()`. If the state
            is a tuple, its first entry is h.
        - `input_dropout`: the rate of z_x, in [0, 1); an array as for `rlscan.nn.DropPath`.
        - `hidden_dropout`: the rate of z_h, in [0, 1). As in the paper, it acts on h in that
            product alone. A GRU also carries h over, (1 − z) n + z h, and there the factor
            1 / (1 − p) would multiply the same entries in every step until they overflow.
        - `inference`: whether to drop nothing; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` if a rate is outside [0, 1); `TypeError` if the cell lacks
        `input_size`, `hidden_size` or `weight_hh`.
        """
        for name in ("input_size", "hidden_size", "weight_hh"):
            if not hasattr(cell, name):
                raise TypeError(
                    "cell must have input_size, hidden_size and weight_hh, as eqx.nn.GRUCell has, "
                    f"got {type(cell).__name__} without {name}; give that name to a field"
                )
        self.cell = cell
        self.input_dropout = as_rate("input_dropout", input_dropout)
        self.hidden_dropout = as_rate("hidden_dropout", hidden_dropout)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, " input_size"],
        state: VariationalDropoutState,
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> VariationalDropoutState:
        """**Arguments:**

        - `x`: `[input_size]`.
        - `state`: from the previous call, or `initial_state()` at the start of an episode.
        - `key`: consumed; not needed in inference mode, or if both rates are 0.
        - `inference`: overrides the layer's own.

        **Returns:** the next state; read its `output`, `[hidden_size]`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or (is_off(self.input_dropout) and is_off(self.hidden_dropout)):
            return dataclasses.replace(state, cell=self.cell(x, state.cell, key=key))
        input_key, hidden_key, cell_key = jax.random.split(require_key(self, key), 3)
        drawn = state.drawn
        new_input_mask = _draw(input_key, self.input_dropout, state.input_mask)
        new_hidden_mask = _draw(hidden_key, self.hidden_dropout, state.hidden_mask)
        input_mask = jnp.where(drawn, state.input_mask, new_input_mask)
        hidden_mask = jnp.where(drawn, state.hidden_mask, new_hidden_mask)

        weight = _DroppingWeight(self.cell.weight_hh, hidden_mask, self.hidden_dropout)
        cell = eqx.tree_at(lambda c: c.weight_hh, self.cell, weight)
        cell_state = cell(keep_where(input_mask, x, self.input_dropout), state.cell, key=cell_key)
        return VariationalDropoutState(
            cell=cell_state,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            drawn=jnp.ones_like(drawn),
        )

    def initial_state(self) -> VariationalDropoutState:
        """The state at the start of an episode: zeros, and no masks yet."""
        return VariationalDropoutState(
            cell=self._initial_cell_state(),
            input_mask=jnp.ones(self.cell.input_size, bool),
            hidden_mask=jnp.ones(self.cell.hidden_size, bool),
            drawn=jnp.zeros((), bool),
        )

    def _initial_cell_state(self) -> PyTree:
        if hasattr(self.cell, "initial_state"):
            return self.cell.initial_state()
        zeros = jnp.zeros(self.cell.hidden_size, self.cell.weight_hh.dtype)
        return (zeros, zeros) if isinstance(self.cell, eqx.nn.LSTMCell) else zeros


class _DroppingWeight(eqx.Module):
    """A stand-in for a weight W, with `self @ h` equal to W (z ∘ h).

    Dropping columns of W itself would be equivalent, but under vmap it would build a W for each
    environment.
    """

    weight: Float[Array, "_ hidden_size"]
    mask: Bool[Array, " hidden_size"]
    p: Rate

    def __matmul__(self, h: Float[Array, " hidden_size"]) -> Float[Array, " _"]:
        return self.weight @ keep_where(self.mask, h, self.p)


def _draw(key: PRNGKeyArray, p: Rate, like: Bool[Array, " size"]) -> Bool[Array, " size"]:
    return (
        jnp.ones_like(like)
        if is_off(p)
        else jax.random.bernoulli(key, 1 - rate_value(p), like.shape)
    )
