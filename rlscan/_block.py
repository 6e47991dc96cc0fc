"""`Block`: attention to what came before, then an MLP for each token."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ._attention import CausalAttention, KeyValueCache
from .nn import Schedule
from .nn._annealed_dropout import dropout_layer


class Block(eqx.Module):
    """Attention, then two layers for each token; both read their input through a LayerNorm.

    A sublayer f adds to the stream, x + dropout(f(norm(x))), or is gated into it,
    gate(x, relu(dropout(f(norm(x))))).
    """

    attention_norm: eqx.nn.LayerNorm
    attention: CausalAttention
    mlp_norm: eqx.nn.LayerNorm
    mlp: tuple[eqx.nn.Linear, eqx.nn.Linear]
    dropout: Callable
    activation: Callable[[Array], Array]
    gates: tuple[eqx.nn.GRUCell, eqx.nn.GRUCell] | None

    def __init__(
        self,
        attention: CausalAttention,
        size: int,
        activation: Callable[[Array], Array],
        dropout: float | int | Schedule,
        gated: bool,
        *,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 4)
        self.attention_norm, self.mlp_norm = eqx.nn.LayerNorm(size), eqx.nn.LayerNorm(size)
        self.attention = attention
        self.mlp = (
            eqx.nn.Linear(size, 4 * size, key=keys[0]),
            eqx.nn.Linear(4 * size, size, key=keys[1]),
        )
        self.dropout = dropout_layer(dropout)
        self.activation = activation
        self.gates = (_gate(size, keys[2]), _gate(size, keys[3])) if gated else None

    def __call__(
        self,
        x: Float[Array, " size"],
        cache: KeyValueCache,
        position: Int[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, " size"], KeyValueCache]:
        attention_key, rest_key = _two(key)
        attended, cache = self.attention(self.attention_norm(x), cache, position, key=attention_key)
        return self._finish(x, attended, rest_key), cache

    def unroll(
        self,
        x: Float[Array, "T size"],
        cache: KeyValueCache,
        position: Int[Array, " T"],
        *,
        key: Key[Array, " T"],
    ) -> Float[Array, "T size"]:
        attention_key, rest_key = jax.vmap(_two)(key)
        normed = jax.vmap(self.attention_norm)(x)
        attended = self.attention.unroll(normed, cache, position, key=attention_key)
        return jax.vmap(self._finish)(x, attended, rest_key)

    def _finish(self, x: Array, attended: Array, key: PRNGKeyArray) -> Array:
        """The stream after both sublayers."""
        attended_key, mlp_key = jax.random.split(key)
        x = self._join(0, x, self.dropout(attended, key=attended_key))
        hidden = self.activation(self.mlp[0](self.mlp_norm(x)))
        return self._join(1, x, self.dropout(self.mlp[1](hidden), key=mlp_key))

    def _join(self, which: int, x: Array, y: Array) -> Array:
        return x + y if self.gates is None else self.gates[which](jax.nn.relu(y), x)


def _two(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    one, other = jax.random.split(key)
    return one, other


_STAY = 2.0  # b_g of the paper: σ(2) = 0.88 of the stream passes by


def _gate(size: int, key: PRNGKeyArray) -> eqx.nn.GRUCell:
    """A GRU cell that reads a sublayer, and whose state is the stream: it starts by keeping it."""
    gate = eqx.nn.GRUCell(size, size, key=key)
    keep = jnp.arange(3 * size) // size == 1  # gates: reset, update, new
    return eqx.tree_at(lambda g: g.bias, gate, jnp.where(keep, _STAY, 0.0))
