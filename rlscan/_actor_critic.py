"""`ActorCritic`: separate actor and critic MLPs, each with dropout of its own."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._random import KeyLike, as_key
from ._spaces import bounds, is_box, is_discrete, one_hot
from ._types import Distribution, Environment, PyTree
from .nn import AnnealedDropout, Schedule


class ActorCritic(eqx.Module):
    """A feed-forward policy for one observation; by default two hidden layers of 64, tanh.

    Discrete actions are categorical. Actions in a box are Gaussian with a standard deviation that
    does not depend on the observation, in units of the box's half-widths around its centre; a
    side without bounds counts as 0 ± 1.
    """

    actor: "MLP"
    critic: "MLP"
    log_std: Float[Array, "..."] | None  # of the shape of a box's actions; else `None`
    # What it must know of the spaces. Not the spaces themselves: two equal ones compare unequal,
    # and so would two policies made for them.
    num_categories: int | None = eqx.field(static=True)  # of a discrete observation, else `None`
    shared_masks: bool = eqx.field(static=True)
    action_center: tuple[float, ...] = eqx.field(static=True)
    action_half_width: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        env: Environment,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str | Callable[[Array], Array] = "tanh",
        dropout: float | int | Schedule = 0.0,
        critic_dropout: float | int | Schedule = 0.0,
        shared_masks: bool = False,
        key: KeyLike,
    ):
        """Orthogonal initialisation with gains √2 (hidden), 0.01 (actor) and 1 (critic).

        **Arguments:**

        - `env`: whose spaces the policy is made for.
        - `hidden_sizes`: units of each hidden layer, of the actor and of the critic.
        - `activation`: a function, or the name of one in `jax.nn`.
        - `dropout`: the rate after each hidden layer of the actor, in [0, 1); or a schedule of it
            over updates, see `rlscan.nn.AnnealedDropout`.
        - `critic_dropout`: likewise of the critic.
        - `shared_masks`: whether the critic has the actor's masks, so that its value is that of the
            very network that acts. For masks that outlive a step, see `rlscan.rollout`.
        - `key`: consumed.

        **Raises:** `ValueError` for a space, a rate, a size or a name that does not fit.
        """
        check_settings(hidden_sizes, activation, dropout, critic_dropout, shared_masks)
        function = getattr(jax.nn, activation) if isinstance(activation, str) else activation
        num_inputs, self.num_categories = _read_observation_space(env.observation_space())
        num_outputs, center, half_width = _read_action_space(env.action_space())
        self.action_center, self.action_half_width = center, half_width
        self.shared_masks = shared_masks

        sizes = (num_inputs, *map(int, hidden_sizes))
        actor, critic = _orthogonal_weights(as_key(key), (*sizes, num_outputs), (*sizes, 1))
        self.actor = MLP(actor, function, dropout)
        self.critic = MLP(critic, function, critic_dropout)
        is_continuous = is_box(env.action_space())
        self.log_std = jnp.zeros(env.action_space().shape) if is_continuous else None

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""], PyTree]:
        actor_key, critic_key = jax.random.split(key)
        if self.shared_masks:  # the same draws for layers of the same sizes
            critic_key = jax.random.clone(actor_key)
        x = self._input(observation)
        value = self.critic(x, key=critic_key)
        return self._distribution(self.actor(x, key=actor_key)), value[0], state

    def initial_state(self) -> PyTree:
        return ()

    def _input(self, observation: PyTree) -> Float[Array, " num_inputs"]:
        if self.num_categories is not None and jnp.shape(observation) == ():
            observation = one_hot(observation, self.num_categories)
        x = jnp.ravel(observation).astype(jnp.float32)
        num_inputs = self.actor.layers[0].in_features
        if x.size != num_inputs:
            raise ValueError(
                f"this ActorCritic takes observations of {num_inputs} numbers, got one of shape "
                f"{jnp.shape(observation)}; build it for the environment that it acts in"
            )
        return x

    def _distribution(self, output: Float[Array, " num_outputs"]) -> Distribution:
        import distrax  # takes a second, so not at the top

        if self.log_std is None:
            return distrax.Categorical(logits=output)
        center = jnp.reshape(jnp.asarray(self.action_center), self.log_std.shape)
        half_width = jnp.reshape(jnp.asarray(self.action_half_width), self.log_std.shape)
        mean = center + half_width * output.reshape(self.log_std.shape)
        scale = half_width * jnp.exp(self.log_std)
        # Not MultivariateNormalDiag, which does not come out of vmap (distrax#276).
        return distrax.Independent(distrax.Normal(mean, scale), self.log_std.ndim)


class MLP(eqx.Module):
    """Linear layers with an activation and dropout after each but the last."""

    layers: tuple[eqx.nn.Linear, ...]
    dropout: eqx.nn.Dropout | AnnealedDropout
    activation: Callable[[Array], Array]

    def __init__(
        self,
        weights: Sequence[Float[Array, "output input"]],
        activation: Callable[[Array], Array],
        dropout: float | int | Schedule,
    ):
        self.layers = tuple(_linear(weight) for weight in weights)
        self.dropout = AnnealedDropout(dropout) if callable(dropout) else eqx.nn.Dropout(dropout)
        self.activation = activation

    def __call__(self, x: Float[Array, " input"], *, key: PRNGKeyArray) -> Float[Array, " output"]:
        keys = jax.random.split(key, len(self.layers))
        for layer, layer_key in zip(self.layers[:-1], keys, strict=False):
            x = self.dropout(self.activation(layer(x)), key=layer_key)
        return self.layers[-1](x)


def check_settings(
    hidden_sizes: Sequence[int],
    activation: str | Callable[[Array], Array],
    dropout: float | int | Schedule,
    critic_dropout: float | int | Schedule,
    shared_masks: bool = False,
) -> None:
    """Raises `ValueError` for a setting that `ActorCritic` does not take."""
    for name, rate in (("dropout", dropout), ("critic_dropout", critic_dropout)):
        if not (callable(rate) or _is_rate(rate)):
            raise ValueError(f"{name} must be in [0, 1), got {rate!r}; 0 switches it off")
    if shared_masks and isinstance(critic_dropout, int | float) and critic_dropout == 0:
        raise ValueError(
            "shared_masks gives the critic the actor's masks, but critic_dropout is 0, so it has "
            "none; set critic_dropout to the actor's rate"
        )
    if not (isinstance(hidden_sizes, Sequence) and all(map(_is_size, hidden_sizes))):
        got = list(hidden_sizes) if isinstance(hidden_sizes, Sequence) else hidden_sizes
        raise ValueError(f"hidden_sizes must be positive integers, got {got}; such as [64, 64]")
    named = getattr(jax.nn, activation, None) if isinstance(activation, str) else activation
    if not _is_activation(named):
        raise ValueError(
            "activation must be a function that keeps the shape of an array, or the name of one "
            f"in jax.nn, got {activation!r}; such as tanh, relu, silu or gelu"
        )


def _is_rate(rate: Any) -> bool:
    return isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate < 1


def _is_size(size: Any) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size > 0)


def _is_activation(function: Any) -> bool:
    hidden = jax.ShapeDtypeStruct((3,), jnp.float32)
    try:
        kept = jax.eval_shape(function, hidden)
        # Not `==`: inside of a mesh it would also say where the array is.
        return (kept.shape, kept.dtype) == (hidden.shape, hidden.dtype)
    except Exception:  # no function of one array
        return False


def _read_observation_space(space: Any) -> tuple[int, int | None]:
    """`(num_inputs, num_categories)`."""
    if is_discrete(space) and getattr(space, "start", 0) == 0:
        return int(space.n), int(space.n)
    if is_box(space):
        return math.prod(space.shape), None
    raise ValueError(
        f"ActorCritic takes observations of a Discrete space from 0, or of a Box, got {space!r}; "
        "write a policy of your own: any eqx.Module by the contract of rlscan.Policy"
    )


def _read_action_space(space: Any) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """`(num_outputs, center, half_width)`, the last two flat, and empty for discrete actions."""
    if is_discrete(space):
        return int(space.n), (), ()
    if is_box(space):
        low, high = bounds(space)
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):  # inf − inf, not used
            center = np.where(bounded, (low + high) / 2, 0.0)
            half_width = np.where(bounded, (high - low) / 2, 1.0)
        return low.size, tuple(center.ravel().tolist()), tuple(half_width.ravel().tolist())
    raise ValueError(
        f"ActorCritic acts in a Discrete or a Box space, got {space!r}; "
        "write a policy of your own: any eqx.Module by the contract of rlscan.Policy"
    )


@partial(jax.jit, static_argnums=(1, 2))
def _orthogonal_weights(
    key: PRNGKeyArray, actor_sizes: tuple[int, ...], critic_sizes: tuple[int, ...]
) -> tuple[list[Array], list[Array]]:
    """The weights of both networks, orthogonal, with gains √2 (hidden), 0.01 and 1 (last layer).

    One function for both, under `jit`: layer by layer it takes four seconds to compile.
    """

    def weights(key: PRNGKeyArray, sizes: tuple[int, ...], final_gain: float) -> list[Array]:
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        gains = [math.sqrt(2)] * (len(shapes) - 1) + [final_gain]
        keys = jax.random.split(key, len(shapes))
        return [g * _orthogonal(k, s) for k, s, g in zip(keys, shapes, gains, strict=True)]

    actor_key, critic_key = jax.random.split(key)
    return weights(actor_key, actor_sizes, 0.01), weights(critic_key, critic_sizes, 1.0)


def _orthogonal(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "output input"]:
    # A batched QR decomposition, which is what `vmap` over seeds makes of this, can deadlock in
    # jaxlib 0.10 on two cores. One after the other costs milliseconds, once.
    initialize = jax.nn.initializers.orthogonal()
    return jax.custom_batching.sequential_vmap(lambda k: initialize(k, shape, jnp.float32))(key)


def _linear(weight: Float[Array, "output input"]) -> eqx.nn.Linear:
    num_outputs, num_inputs = weight.shape
    # The layer's own initialisation is thrown away, so it is never computed.
    linear = eqx.filter_eval_shape(eqx.nn.Linear, num_inputs, num_outputs, key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), linear, (weight, jnp.zeros(num_outputs)))
