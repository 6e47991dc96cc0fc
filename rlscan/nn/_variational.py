"""`VariationalDropoutCell`: a recurrent cell with one dropout mask for a whole episode."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._core.types import PyTree
from ._dropout import as_rate, require_key


class VariationalDropoutState(eqx.Module):
    """Where a cell stands in an episode, and the masks that it goes through it with."""

    cell: PyTree  # the wrapped cell's own state: h, or (h, c) of an LSTM

    # Drawn by the first call of an episode, and kept. `True` where an entry is kept.
    input_mask: Bool[Array, "*N input_size"]
    hidden_mask: Bool[Array, "*N hidden_size"]
    drawn: Bool[Array, "*N"]  # `False` until then; what stands in the masks is not used

    @property
    def output(self) -> Float[Array, "*N hidden_size"]:
        """h, what the layers above read."""
        return self.cell[0] if isinstance(self.cell, tuple) else self.cell


class VariationalDropoutCell(eqx.Module):
    """Wraps a recurrent cell: what it reads is dropped by masks that last for an episode.

    At each step t of an episode, the products with the weights of the cell become

        W_ih (z_x ∘ x_t)    and    W_hh (z_h ∘ h_{t−1}),

    where every entry of z is 0 with probability p and else 1 / (1 − p). z_x and z_h are drawn by
    the first call of the episode, from that call's key, and live in the recurrent state. So they
    end where the rollout resets that state, go on from one rollout into the next, and come back
    in replay, which starts from the recorded state. In a policy:

        def __call__(self, observation, state, *, key):
            state = self.cell(observation, state, key=key)
            return distrax.Categorical(self.actor(state.output)), self.critic(state.output), state

        def initial_state(self):
            return self.cell.initial_state()

    The state of a policy grows by one byte for each entry of x and of h. Bits are drawn on every
    call and kept on the first alone: under `vmap` a `lax.cond` would run both branches anyway.

    With rates of 0 or in inference mode it is the wrapped cell, and masks that are drawn stay.
    Masks are a hidden variable that outlives a step (see `rlscan.rollout`): let the critic read
    `output` as the actor does.

    The alternative that wraps nothing: `eqx.nn.Dropout` on what goes into the cell, under the key
    schedule "episode" of the rollout, which keeps one key for the whole episode. Then the noise
    of *every* layer of the policy lasts an episode, and not of this cell alone. Leave the state of
    a GRU out of it: see `hidden_dropout`.

    Source: Gal & Ghahramani, *A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks*, 2016, arXiv:1512.05287, the form with tied weights: one mask for all gates.
    """

    cell: Any
    input_dropout: float
    hidden_dropout: float
    inference: bool

    def __init__(
        self,
        cell: Any,
        input_dropout: float | int = 0.5,
        hidden_dropout: float | int = 0.5,
        inference: bool = False,
    ):
        """**Arguments:**

        - `cell`: an `eqx.nn.GRUCell`, an `eqx.nn.LSTMCell`, or one of your own that is called as
            they are, `cell(x, state, key=key) -> state`, has their `input_size` and `hidden_size`,
            and multiplies by its recurrent weight as `self.weight_hh @ h`. Its state is an array
            of zeros `[hidden_size]`, unless it has a method `initial_state()`; if that is a tuple,
            then h is the first of it.
        - `input_dropout`: the rate of z_x, in [0, 1).
        - `hidden_dropout`: the rate of z_h, in [0, 1). It reaches h in that product alone, where
            the paper has it. A GRU also carries h over, (1 − z) n + z h, and there the factor
            1 / (1 − p) would multiply the same entries on each step until they overflow.
        - `inference`: whether to drop nothing; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` for a rate outside [0, 1), `TypeError` for a cell that lacks one
        of the three names.
        """
        for name in ("input_size", "hidden_size", "weight_hh"):
            if not hasattr(cell, name):
                raise TypeError(
                    "cell must have input_size, hidden_size and weight_hh, as eqx.nn.GRUCell has, "
                    f"got {type(cell).__name__} without {name}; give that name to the field"
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
        - `state`: from the call before, or `initial_state()` where an episode starts.
        - `key`: consumed; not needed in inference mode, or if both rates are 0.
        - `inference`: overrides the layer's own.

        **Returns:** the next state; read its `output`, `[hidden_size]`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or self.input_dropout == self.hidden_dropout == 0:
            return dataclasses.replace(state, cell=self.cell(x, state.cell, key=key))
        input_key, hidden_key, cell_key = jax.random.split(require_key(self, key), 3)
        drawn = state.drawn
        new_input_mask = _draw(input_key, self.input_dropout, state.input_mask)
        new_hidden_mask = _draw(hidden_key, self.hidden_dropout, state.hidden_mask)
        input_mask = jnp.where(drawn, state.input_mask, new_input_mask)
        hidden_mask = jnp.where(drawn, state.hidden_mask, new_hidden_mask)

        weight = _DroppingWeight(self.cell.weight_hh, hidden_mask, self.hidden_dropout)
        cell = eqx.tree_at(lambda c: c.weight_hh, self.cell, weight)
        cell_state = cell(_drop(x, input_mask, self.input_dropout), state.cell, key=cell_key)
        return VariationalDropoutState(
            cell=cell_state,
            input_mask=input_mask,
            hidden_mask=hidden_mask,
            drawn=jnp.ones_like(drawn),
        )

    def initial_state(self) -> VariationalDropoutState:
        """The state where an episode starts: zeros, and no masks yet."""
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
    """Stands in for a weight W: `self @ h` is W (z ∘ h), and W is shared by all environments.

    Dropping columns of W itself would say the same, and under vmap make a W for each environment.
    """

    weight: Float[Array, "_ hidden_size"]
    mask: Bool[Array, " hidden_size"]
    p: float

    def __matmul__(self, h: Float[Array, " hidden_size"]) -> Float[Array, " _"]:
        return self.weight @ _drop(h, self.mask, self.p)


def _draw(key: PRNGKeyArray, p: float, like: Bool[Array, " size"]) -> Bool[Array, " size"]:
    return jax.random.bernoulli(key, 1 - p, like.shape) if p > 0 else jnp.ones_like(like)


def _drop(x: Float[Array, " size"], mask: Bool[Array, " size"], p: float) -> Float[Array, " size"]:
    return jnp.where(mask, x / (1 - p), 0)
