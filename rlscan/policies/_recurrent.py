"""`RecurrentActorCritic`: an actor-critic on top of a GRU or an LSTM."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from .._core.environment import action_space_of, observation_space_of
from .._core.require import require_one_of, require_positive
from .._core.scan import filter_scan
from .._core.spaces import action_mask
from .._core.tree import where
from .._core.types import Distribution, HasSpaces, PyTree
from ..nn._dropout import Schedule, as_rate, is_off
from ..nn._mlp import MLP, orthogonal
from ..nn._variational import VariationalDropoutCell, VariationalDropoutState
from ..random._keys import KeyLike, as_key
from ._action_head import ActionHead, Continuous
from ._actor_critic import actor_and_critic, check_settings
from ._encoder import NUM_CHANNELS, as_activation
from ._own_encoder import encode, encode_steps, make_encoder

CellName = Literal["gru", "lstm"]
CELLS: tuple[CellName, ...] = ("gru", "lstm")


class RecurrentActorCritic(eqx.Module):
    """A recurrent policy: actor and critic both read the output of a recurrent core.

        sₜ = cell(encoder(observationₜ), sₜ₋₁),    π = actor(dropout(hₜ)),    V = critic(hₜ)

    with hₜ = sₜ for a GRU, and sₜ = (hₜ, cₜ) for an LSTM. s is 0 at the start of an episode. The
    loss is differentiated through all T steps of a rollout, back to its initial state.

    `dropout` is applied after the core and after each hidden layer, with a new mask at each step,
    in the actor only; `critic_dropout` does the same in the critic. `recurrent_dropout` is inside
    the core, with one mask per episode, so it affects the value as well. All masks are drawn from
    the policy's key, and replay draws them again.

    The critic's gradients also shape the core. If returns are far above 1, they dominate the
    actor's: scale rewards, or lower `value_coef` (CartPole without velocities needs 0.01).
    """

    encoder: Callable[..., Any]
    """Maps an observation to a vector."""
    cell: eqx.nn.GRUCell | eqx.nn.LSTMCell | VariationalDropoutCell
    """The recurrent core."""
    actor: MLP
    """The layers from the output of the core to the outputs of the head."""
    critic: MLP
    """The layers from the output of the core to the value."""
    head: ActionHead
    """Maps the actor's outputs to a distribution."""

    def __init__(
        self,
        env: HasSpaces,
        *,
        cell: CellName = "gru",
        hidden_size: int = 64,
        hidden_sizes: Sequence[int] = (64,),
        activation: str | Callable[[Array], Array] = "tanh",
        num_channels: Sequence[int] = NUM_CHANNELS,
        encoder: Callable[..., Any] | None = None,
        dropout: float | int | Array | Schedule = 0.0,
        critic_dropout: float | int | Array | Schedule = 0.0,
        recurrent_dropout: float | int | Array = 0.0,
        continuous: Continuous = "gaussian",
        state_dependent_std: bool = False,
        key: KeyLike,
    ):
        """Orthogonal initialisation with gains 1 (each gate), √2 (hidden), 0.01 (actor) and 1
        (critic). A gain is the standard deviation of a unit before its activation if its inputs
        have variance 1, however few they are. Biases are 0, except 1 for an LSTM's forget gate
        (Jozefowicz et al. 2015).

        **Arguments:**

        - `env`: the environment whose spaces the policy is built for, or an `rlscan.envs.Spaces`.
        - `cell`: the core, `"gru"` or `"lstm"`.
        - `hidden_size`: the size of h.
        - `hidden_sizes`: units of each hidden layer of the actor after the core, and likewise of
            the critic.
        - `activation`: of hidden layers and convolutions; a function, or the name of one in
            `jax.nn`.
        - `dropout`: the rate after the core and after each hidden layer of the actor, in [0, 1);
            or a schedule of it over updates, see `rlscan.nn.AnnealedDropout`. Any rate here may be
            an array, as for `rlscan.policies.ActorCritic`.
        - `critic_dropout`: the same for the critic.
        - `recurrent_dropout`: the rate for the cell's recurrent input h, in [0, 1), with one mask
            per episode; see `rlscan.nn.VariationalDropoutCell`.
        - `num_channels`, `continuous`, `state_dependent_std`: as for `rlscan.policies.ActorCritic`.
        - `encoder`: your own, called once, see `rlscan.policies.ActorCritic`.
        - `key`: consumed.

        **Raises:** `ValueError` for a space, a rate, a size or a name that does not fit.
        """
        check_settings(hidden_sizes, activation, dropout, critic_dropout)
        check_recurrent_settings(cell, hidden_size, recurrent_dropout)
        hidden_size = int(hidden_size)
        function = as_activation(activation)
        encoder_key, cell_key, heads_key = jax.random.split(as_key(key), 3)
        self.encoder, size = make_encoder(
            encoder,
            observation_space_of(env),
            key=encoder_key,
            num_channels=num_channels,
            activation=function,
        )
        self.head = ActionHead(
            action_space_of(env), continuous=continuous, state_dependent_std=state_dependent_std
        )
        core = _cell(cell, size, hidden_size, cell_key)
        rate = as_rate("recurrent_dropout", recurrent_dropout)
        self.cell = core if is_off(rate) else VariationalDropoutCell(core, 0.0, recurrent_dropout)
        actor_key, critic_key = jax.random.split(heads_key)
        self.actor, self.critic = actor_and_critic(
            (actor_key, critic_key),
            (hidden_size, *map(int, hidden_sizes)),
            self.head.num_outputs,
            function,
            (dropout, critic_dropout),
        )

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""], PyTree]:
        state = self._next_state(encode(self.encoder, observation, key), state, key)
        return *self.decide(_output(state), observation, key=jax.random.clone(key)), state

    def initial_state(self) -> PyTree:
        """Zeros: h for a GRU, (h, c) for an LSTM."""
        if isinstance(self.cell, VariationalDropoutCell):
            return self.cell.initial_state()
        zeros = jnp.zeros(self.cell.hidden_size)
        return (zeros, zeros) if isinstance(self.cell, eqx.nn.LSTMCell) else zeros

    def unroll(
        self, observation: PyTree, state: PyTree, done: Bool[Array, " T"], *, key: Key[Array, " T"]
    ) -> Float[Array, "T hidden_size"]:
        """hₜ for T steps, see `rlscan.SequencePolicy`. Only the core is computed step by step."""

        def step(state: PyTree, at_t: tuple) -> tuple[PyTree, Array]:
            x, done, bits = at_t
            state = self._next_state(x, state, jax.random.wrap_key_data(bits, impl=impl))
            return where(done, self.initial_state(), state), _output(state)

        # Key data instead of keys, because vmap moves the axes of the scan's inputs, and JAX's
        # key-reuse checker counts moving the axes of a key array as a use.
        bits, impl = jax.random.key_data(key), jax.random.key_impl(key)
        inputs = encode_steps(self.encoder, observation, key)
        return filter_scan(step, state, (inputs, done, bits))[1]

    def decide(
        self, features: Float[Array, " hidden_size"], observation: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""]]:
        """The distribution and the value for h; `key` is the key of the step."""
        _, actor_key, critic_key, head_key = jax.random.split(key, 4)
        outputs = _read(self.actor, features, actor_key)
        value = _read(self.critic, features, critic_key)
        return self.head(outputs, mask=action_mask(observation), key=head_key), value[0]

    def _next_state(self, x: Float[Array, " size"], state: PyTree, key: PRNGKeyArray) -> PyTree:
        """The next state of the core."""
        core_key, *_ = jax.random.split(key, 4)
        return self.cell(x, state, key=core_key)


def check_recurrent_settings(cell: Any, hidden_size: Any, recurrent_dropout: Any) -> None:
    """Raise `ValueError` for an invalid setting that only `RecurrentActorCritic` has."""
    require_one_of("cell", cell, CELLS)
    require_positive("hidden_size", hidden_size)
    as_rate("recurrent_dropout", recurrent_dropout)


def _read(mlp: MLP, features: Array, key: PRNGKeyArray) -> Array:
    """Apply an MLP, and its dropout to the input as well."""
    input_key, mlp_key = jax.random.split(key)
    return mlp(mlp.dropout(features, key=input_key), key=mlp_key)


def _output(state: PyTree) -> Float[Array, " hidden_size"]:
    """h, the output of the core."""
    if isinstance(state, VariationalDropoutState):
        return state.output
    return state[0] if isinstance(state, tuple) else state


@partial(jax.jit, static_argnums=(0, 1, 2))
def _cell_weights(
    num_gates: int, input_size: int, hidden_size: int, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """`(weight_ih, weight_hh)`, orthogonal for each of the gates that Equinox stacks."""

    def gates(key: PRNGKeyArray, num_inputs: int) -> Array:
        keys = jax.random.split(key, num_gates)
        return jnp.concatenate([orthogonal(k, (hidden_size, num_inputs), 1.0) for k in keys])

    input_key, hidden_key = jax.random.split(key)
    return gates(input_key, input_size), gates(hidden_key, hidden_size)


def _cell(
    name: CellName, input_size: int, hidden_size: int, key: PRNGKeyArray
) -> eqx.nn.GRUCell | eqx.nn.LSTMCell:
    kind, num_gates = (eqx.nn.GRUCell, 3) if name == "gru" else (eqx.nn.LSTMCell, 4)
    # `filter_eval_shape`, because the cell's own initialisation would be overwritten.
    cell = eqx.filter_eval_shape(kind, input_size, hidden_size, key=jax.random.key(0))
    cell = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), cell)
    weights = _cell_weights(num_gates, input_size, hidden_size, key)
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh), cell, weights)
    if name == "lstm":  # gates: input, forget, cell, output
        forget = jnp.arange(4 * hidden_size) // hidden_size == 1
        cell = eqx.tree_at(lambda c: c.bias, cell, forget.astype(cell.bias.dtype))
    return cell
