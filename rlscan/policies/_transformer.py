"""`TransformerActorCritic`: a causal transformer over an episode, one token per step."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from .._core.environment import action_space_of, observation_space_of
from .._core.require import require_flag, require_positive
from .._core.spaces import action_mask
from .._core.types import Distribution, HasSpaces, PyTree
from ..nn._attention import Block, CausalAttention, KeyValueCache
from ..nn._dropout import Schedule, as_rate, dropout_layer
from ..nn._mlp import linear, orthogonal
from ..random._keys import KeyLike, as_key
from ._action_head import ActionHead, Continuous
from ._actor_critic import check_settings
from ._encoder import NUM_CHANNELS, as_activation
from ._own_encoder import encode, make_encoder


class Context(eqx.Module):
    """The state of a transformer: its cached tokens of the episode so far."""

    caches: tuple[KeyValueCache, ...]  # one for each block
    num_steps: Int[Array, "*N"]  # environment steps of the episode so far


class TransformerActorCritic(eqx.Module):
    """A causal transformer policy that attends to the last L steps of its episode.

    The observation of a step is one token. It is encoded, embedded, and passed through blocks of
    causal attention and an MLP, with pre-LayerNorm. Actor and critic both read the output, so the
    value is computed with the noise of the policy that acts. The policy's state is a cache of keys
    and values: a step computes only its own token, and attends to the cached ones. Each block
    attends to the last L = `context_length` tokens, which have themselves attended to the L tokens
    before them, so the receptive field of B blocks is B (L − 1) + 1 steps.

    A reset empties the cache: tokens of earlier episodes are masked, and the first step of an
    episode attends to itself alone. A rollout continues from the cache of the last one even though
    the parameters have changed since, as with the state of any recurrent policy. Tokens cached
    before a rollout are data to which no gradient flows.

    All dropout of step t, including that of the attention weights, is drawn from the key of step t.
    `replay` computes the T steps of a sequence in parallel with `unroll`, using the same masks.

    The state takes `num_layers * 2 * context_length * embed_size * 4` bytes for each environment,
    32 KiB by default. A rollout also keeps the state at the end of each truncated episode, in one
    slot for every `time_limit` steps, or in T slots if there is no limit: then 128 steps of 64
    environments take 256 MiB (see `rlscan.transition_bytes`).

    The critic's gradients shape the whole network. If returns are far above 1, scale rewards or
    lower `value_coef`, see `rlscan.policies.RecurrentActorCritic`.

    Source: pre-LayerNorm as in Radford et al., *Language Models are Unsupervised Multitask
    Learners*, 2019; gating as in Parisotto et al., *Stabilizing Transformers for Reinforcement
    Learning*, 2019, arXiv:1910.06764, except that the reset gate is that of `eqx.nn.GRUCell`, which
    multiplies U x and not x.
    """

    encoder: Callable[..., Any]
    """Maps an observation to a vector."""
    embedding: eqx.nn.Linear
    """Maps that vector to a token."""
    blocks: tuple[Block, ...]
    """The blocks of attention and MLP."""
    norm: eqx.nn.LayerNorm
    """The normalisation after the last block."""
    actor: eqx.nn.Linear
    """The layer whose outputs the head takes."""
    critic: eqx.nn.Linear
    """The layer whose output is the value."""
    head: ActionHead
    """Maps the actor's outputs to a distribution."""
    dropout: Callable
    """The dropout of the embedded token."""

    def __init__(
        self,
        env: HasSpaces,
        *,
        context_length: int = 32,
        num_layers: int = 2,
        num_heads: int = 4,
        embed_size: int = 64,
        activation: str | Callable[[Array], Array] = "gelu",
        num_channels: Sequence[int] = NUM_CHANNELS,
        encoder: Callable[..., Any] | None = None,
        dropout: float | int | Array | Schedule = 0.0,
        attention_dropout: float | int | Array = 0.0,
        gated: bool = False,
        continuous: Continuous = "gaussian",
        state_dependent_std: bool = False,
        key: KeyLike,
    ):
        """Equinox's initialisation, but orthogonal heads with gains 0.01 (actor) and 1 (critic).

        **Arguments:**

        - `env`: the environment whose spaces the policy is built for, or an `rlscan.envs.Spaces`.
        - `context_length`: L, in environment steps, including the current one.
        - `num_layers`: the number of blocks.
        - `num_heads`: attention heads of each block; must divide `embed_size`.
        - `embed_size`: the size of a token. The MLP of a block has four times as many hidden units.
        - `activation`: of the MLPs and convolutions; a function, or the name of one in `jax.nn`.
        - `dropout`: the rate after the embedding and after each sublayer, in [0, 1); or a schedule
            of it over updates, see `rlscan.nn.AnnealedDropout`. Any rate here may be an array, as
            for `rlscan.policies.ActorCritic`.
        - `attention_dropout`: the rate of the attention weights, in [0, 1).
        - `gated`: whether a GRU gate that starts near the identity combines a sublayer with the
            residual stream, instead of a sum.
        - `num_channels`, `continuous`, `state_dependent_std`: as for `rlscan.policies.ActorCritic`.
        - `encoder`: your own, called once, see `rlscan.policies.ActorCritic`.
        - `key`: consumed.

        **Raises:** `ValueError` for a space, a rate, a size or a name that does not fit.
        """
        check_transformer_settings(
            context_length, num_layers, num_heads, embed_size, attention_dropout, gated
        )
        check_settings((), activation, dropout, 0.0)
        sizes = (context_length, num_layers, num_heads, embed_size)
        context_length, num_layers, num_heads, embed_size = map(int, sizes)
        function = as_activation(activation)
        encoder_key, embedding_key, blocks_key, heads_key = jax.random.split(as_key(key), 4)
        self.encoder, size = make_encoder(
            encoder,
            observation_space_of(env),
            key=encoder_key,
            num_channels=num_channels,
            activation=function,
        )
        self.embedding = eqx.nn.Linear(size, embed_size, key=embedding_key)
        self.dropout = dropout_layer(dropout)
        self.blocks = tuple(
            Block(
                CausalAttention(embed_size, num_heads, context_length, attention_dropout, key=one),
                embed_size,
                function,
                dropout,
                gated,
                key=other,
            )
            for one, other in jax.random.split(blocks_key, (num_layers, 2))
        )
        self.norm = eqx.nn.LayerNorm(embed_size)
        self.head = ActionHead(
            action_space_of(env), continuous=continuous, state_dependent_std=state_dependent_std
        )
        actor_key, critic_key = jax.random.split(heads_key)
        self.actor = linear(orthogonal(actor_key, (self.head.num_outputs, embed_size), 0.01))
        self.critic = linear(orthogonal(critic_key, (1, embed_size), 1.0))

    def __call__(
        self, observation: PyTree, state: Context, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""], Context]:
        x, caches, block_keys = self._embed(observation, key), [], self._block_keys(key)
        for i, block in enumerate(self.blocks):
            x, cache = block(x, state.caches[i], state.num_steps, key=block_keys[i])
            caches.append(cache)
        state = Context(tuple(caches), state.num_steps + 1)
        return *self.decide(self.norm(x), observation, key=key), state

    def initial_state(self) -> Context:
        """Empty caches."""
        zeros = jnp.zeros_like(self.blocks[0].attention.distance)
        cache = KeyValueCache(zeros, zeros)
        return Context((cache,) * len(self.blocks), jnp.zeros((), jnp.int32))

    def unroll(
        self, observation: PyTree, state: Context, done: Bool[Array, " T"], *, key: Key[Array, " T"]
    ) -> Float[Array, "T embed_size"]:
        """The outputs of the blocks for T steps in parallel, see `rlscan.SequencePolicy`."""
        position = _positions(state.num_steps, done)
        x, block_keys = jax.vmap(self._embed)(observation, key), jax.vmap(self._block_keys)(key)
        for i, block in enumerate(self.blocks):
            x = block.unroll(x, state.caches[i], position, key=block_keys[i])
        return jax.vmap(self.norm)(x)

    def decide(
        self, features: Float[Array, " embed_size"], observation: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""]]:
        """The distribution and the value for an output; `key` is the key of the step."""
        head_key = _split(key)[2]
        mask = action_mask(observation)
        return self.head(self.actor(features), mask=mask, key=head_key), self.critic(features)[0]

    def _embed(self, observation: PyTree, key: PRNGKeyArray) -> Float[Array, " embed_size"]:
        encoded = encode(self.encoder, observation, key)
        return self.dropout(self.embedding(encoded), key=_split(key)[0])

    def _block_keys(self, key: PRNGKeyArray) -> tuple[PRNGKeyArray, ...]:
        return tuple(jax.random.split(_split(key)[1], len(self.blocks)))


def check_transformer_settings(
    context_length: Any,
    num_layers: Any,
    num_heads: Any,
    embed_size: Any,
    attention_dropout: Any,
    gated: Any,
) -> None:
    """Raise `ValueError` for an invalid setting that only `TransformerActorCritic` has."""
    require_positive("context_length", context_length)
    require_positive("num_layers", num_layers)
    require_positive("num_heads", num_heads)
    require_positive("embed_size", embed_size)
    if embed_size % num_heads:
        raise ValueError(
            f"embed_size = {embed_size} is not divisible by num_heads = {num_heads}; "
            f"use embed_size = {-(-embed_size // num_heads) * num_heads}"
        )
    as_rate("attention_dropout", attention_dropout)
    require_flag("gated", gated)


def _split(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray]:
    """Split the key of a step into those of the embedding, the blocks and the head.

    The key is cloned, because each part of the policy splits it and takes one of the three.
    """
    embedding_key, blocks_key, head_key = jax.random.split(jax.random.clone(key), 3)
    return embedding_key, blocks_key, head_key


def _positions(num_steps: Int[Array, ""], done: Bool[Array, " T"]) -> Int[Array, " T"]:
    """The index of each step in its episode, if `num_steps` steps preceded the first."""
    t = jnp.arange(len(done))
    starts = jnp.concatenate([-num_steps[None], jnp.where(done, t + 1, -num_steps)[:-1]])
    return t - lax.cummax(starts)
