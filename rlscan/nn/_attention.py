"""`CausalAttention` over the last L tokens of an episode, step by step or for a whole sequence."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ._dropout import AnnealedDropout, Schedule, dropout_layer


class KeyValueCache(eqx.Module):
    """Keys and values of an episode's last L tokens, in a ring: position p is in slot p mod L.

    Slots that the episode has not reached are never read.
    """

    key: Float[Array, "*N context num_heads head_size"]
    value: Float[Array, "*N context num_heads head_size"]


class CausalAttention(eqx.Module):
    """Attention over a sliding window of L tokens of one episode, with learnt relative positions.

    Token t at position p in its episode (0, 1, …) has the query qₜ, key kₜ and value vₜ. For each
    head and each distance d = 0 … L − 1,

        aₜ(d) = softmax over d ≤ p of  qₜ · (kₜ₋ᵈ + r(d)) / √head_size,
        yₜ = Σ over d of  dropout(aₜ)(d) vₜ₋ᵈ,

    with a learnt vector r(d). Nothing depends on p itself, so a cached key stays valid while the
    window slides, in an episode of any length. Dropout of the row aₜ uses the key of step t, with
    one bit per distance, so both methods below drop the same entries.

    Source: Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762; r(d) is from
    Shaw et al., *Self-Attention with Relative Position Representations*, 2018, arXiv:1803.02155,
    used for keys only.
    """

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    distance: Float[Array, "context num_heads head_size"]  # r
    dropout: eqx.nn.Dropout | AnnealedDropout

    def __init__(
        self,
        size: int,
        num_heads: int,
        context_length: int,
        dropout: float | int | Array,
        *,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 5)
        self.query, self.key, self.value, self.output = (
            eqx.nn.Linear(size, size, key=k) for k in keys[:4]
        )
        shape = context_length, num_heads, size // num_heads
        self.distance = jax.random.normal(keys[4], shape) / math.sqrt(shape[-1])
        self.dropout = dropout_layer(dropout, "attention_dropout")

    def __call__(
        self,
        x: Float[Array, " size"],
        cache: KeyValueCache,
        position: Int[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, " size"], KeyValueCache]:
        """Attend from one token to those in the cache, and add it to the cache."""
        query, new_key, new_value = self._project(x)
        length = len(self.distance)
        keys = cache.key.at[position % length].set(new_key)
        values = cache.value.at[position % length].set(new_value)
        # The slot of each distance. It is also the distance of each slot: d = (p − s) mod L is its
        # own inverse.
        flip = (position - jnp.arange(length)) % length
        scores = jnp.einsum("hi,shi->hs", query, keys)[:, flip]
        weights = self._weights(scores, query, position, key)[:, flip]
        heads = jnp.einsum("hs,shi->hi", weights, values)
        return self.output(heads.ravel()), KeyValueCache(keys, values)

    def unroll(
        self,
        x: Float[Array, "T size"],
        cache: KeyValueCache,
        position: Int[Array, " T"],
        *,
        key: Key[Array, " T"],
    ) -> Float[Array, "T size"]:
        """Attend from T tokens at once, which may belong to successive episodes.

        Equal to T calls of the layer, starting from `cache`. The keys are those of the L − 1 tokens
        before, then of the T. The scores are a matrix `[T, L − 1 + T]`, of which a band of width L
        is used.
        """
        query, new_key, new_value = jax.vmap(self._project)(x)
        length = len(self.distance)
        before = (position[0] - jnp.arange(length - 1, 0, -1)) % length
        keys = jnp.concatenate([cache.key[before], new_key])
        values = jnp.concatenate([cache.value[before], new_value])

        scores = jnp.einsum("thi,shi->hts", query, keys)
        scores = jax.vmap(_by_distance, (0, None), 1)(scores, length)
        weights = jax.vmap(self._weights)(scores, query, position, key)
        weights = jax.vmap(_by_token, 1, 0)(weights)
        heads = jnp.einsum("hts,shi->thi", weights, values)
        return jax.vmap(self.output)(heads.reshape(x.shape))

    def _project(self, x: Float[Array, " size"]) -> tuple[Array, Array, Array]:
        """The query, key and value of a token, `[num_heads, head_size]` each."""
        shape = self.distance.shape[1:]
        query, key, value = (f(x).reshape(shape) for f in (self.query, self.key, self.value))
        return query, key, value

    def _weights(
        self,
        scores: Float[Array, "num_heads context"],
        query: Float[Array, "num_heads head_size"],
        position: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> Float[Array, "num_heads context"]:
        """The weights aₜ(d) after dropout, from the products qₜ · kₜ₋ᵈ."""
        length, _, head_size = self.distance.shape
        scores = (scores + jnp.einsum("hi,dhi->hd", query, self.distance)) / math.sqrt(head_size)
        in_episode = jnp.arange(length) <= position
        return self.dropout(jax.nn.softmax(jnp.where(in_episode, scores, -jnp.inf)), key=key)


# The band of row t begins in column t. If the same memory is read in rows that are longer by one,
# every band begins in column 0. Both functions use this to avoid a gather.


def _by_distance(rows: Float[Array, "T S"], length: int) -> Float[Array, "T context"]:
    """Gather columns t … t + L − 1 of each row t, in the order of their distances 0 … L − 1."""
    num_rows, width = rows.shape
    block = jnp.pad(rows.ravel(), (0, num_rows)).reshape(num_rows, width + 1)
    return block[:, :length][:, ::-1]


def _by_token(rows: Float[Array, "T context"]) -> Float[Array, "T S"]:
    """The inverse of `_by_distance`, with zeros outside the band."""
    num_rows, length = rows.shape
    width = num_rows + length - 1
    block = jnp.pad(rows[:, ::-1], ((0, 0), (0, width + 1 - length)))
    return block.ravel()[: num_rows * width].reshape(num_rows, width)


class Block(eqx.Module):
    """A pre-norm transformer block: attention, then an MLP of two layers for each token.

    A sublayer f is added to the residual stream, x + dropout(f(norm(x))), or gated into it,
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
        dropout: float | int | Array | Schedule,
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
        attention_key, rest_key = _split_in_two(key)
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
        attention_key, rest_key = jax.vmap(_split_in_two)(key)
        normed = jax.vmap(self.attention_norm)(x)
        attended = self.attention.unroll(normed, cache, position, key=attention_key)
        return jax.vmap(self._finish)(x, attended, rest_key)

    def _finish(self, x: Array, attended: Array, key: PRNGKeyArray) -> Array:
        """The residual stream after both sublayers."""
        attended_key, mlp_key = jax.random.split(key)
        x = self._join(0, x, self.dropout(attended, key=attended_key))
        hidden = self.activation(self.mlp[0](self.mlp_norm(x)))
        return self._join(1, x, self.dropout(self.mlp[1](hidden), key=mlp_key))

    def _join(self, which: int, x: Array, y: Array) -> Array:
        return x + y if self.gates is None else self.gates[which](jax.nn.relu(y), x)


def _split_in_two(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    one, other = jax.random.split(key)
    return one, other


_GATE_BIAS = 2.0  # b_g of the paper: the gate starts by keeping σ(2) = 0.88 of the stream


def _gate(size: int, key: PRNGKeyArray) -> eqx.nn.GRUCell:
    """A GRU cell that takes a sublayer's output as input and the residual stream as state."""
    gate = eqx.nn.GRUCell(size, size, key=key)
    keep = jnp.arange(3 * size) // size == 1  # gates: reset, update, new
    return eqx.tree_at(lambda g: g.bias, gate, jnp.where(keep, _GATE_BIAS, 0.0))
