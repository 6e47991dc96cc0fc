"""`ActorCritic`: separate actor and critic networks, each with dropout of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.spaces import action_mask
from .._core.types import Distribution, Environment, PyTree
from ..nn._dropout import Schedule
from ..nn._mlp import MLP, orthogonal_weights
from ..random._keys import KeyLike, as_key
from ._action_head import ActionHead, Continuous
from ._encoder import NUM_CHANNELS, Encoder, check_num_channels


class ActorCritic(eqx.Module):
    """A feed-forward policy for one observation; by default two hidden layers of 64, tanh.

    Observations of any space that an `Encoder` takes, actions of any that an `ActionHead` takes:
    `rlscan.Encoder` and `rlscan.ActionHead` say which, and how. Where an observation is a dict with
    an `"action_mask"`, the actions that are not legal there have a probability of 0.
    """

    # An encoder each: the critic's errors are larger than the actor's, and would shape what both
    # see; separate networks did better in Andrychowicz et al. (2021, arXiv:2006.05990). And in a
    # rollout the critic, its convolutions too, is dead code.
    actor_encoder: Encoder
    critic_encoder: Encoder
    actor: MLP
    critic: MLP
    head: ActionHead
    shared_masks: bool = eqx.field(static=True)

    def __init__(
        self,
        env: Environment,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str | Callable[[Array], Array] = "tanh",
        num_channels: Sequence[int] = NUM_CHANNELS,
        dropout: float | int | Schedule = 0.0,
        critic_dropout: float | int | Schedule = 0.0,
        shared_masks: bool = False,
        continuous: Continuous = "gaussian",
        state_dependent_std: bool = False,
        key: KeyLike,
    ):
        """Orthogonal initialisation with gains √2 (hidden), 0.01 (actor) and 1 (critic).

        **Arguments:**

        - `env`: whose spaces the policy is made for.
        - `hidden_sizes`: units of each hidden layer, of the actor and of the critic.
        - `activation`: a function, or the name of one in `jax.nn`; of convolutions as well.
        - `num_channels`: of each 3 × 3 convolution of an image `[height, width, channels]`, of the
            actor and of the critic; with none an image is a flat vector.
        - `dropout`: the rate after each hidden layer of the actor, in [0, 1); or a schedule of it
            over updates, see `rlscan.nn.AnnealedDropout`. There is none after convolutions.
        - `critic_dropout`: likewise of the critic.
        - `shared_masks`: whether the critic has the actor's masks, so that its value is that of the
            very network that acts; both rates must be one. For masks that outlive a step, see
            `rlscan.rollout`.
        - `continuous`: how actions in a box are distributed: `"gaussian"`, and clipped; `"tanh"`, a
            Gaussian whose tanh fills the box; `"beta"`.
        - `state_dependent_std`: whether the scale of a Gaussian depends on the observation, rather
            than being a learned number for each component.
        - `key`: consumed.

        **Raises:** `ValueError` for a space, a rate, a size or a name that does not fit.
        """
        check_settings(hidden_sizes, activation, dropout, critic_dropout, shared_masks)
        check_num_channels(num_channels)
        function = getattr(jax.nn, activation) if isinstance(activation, str) else activation
        keys = jax.random.split(as_key(key), 4)
        actor_key, critic_key, actor_encoder_key, critic_encoder_key = keys
        self.shared_masks = shared_masks

        self.actor_encoder, self.critic_encoder = (
            Encoder(env.observation_space(), key=k, num_channels=num_channels, activation=function)
            for k in (actor_encoder_key, critic_encoder_key)
        )
        self.head = ActionHead(
            env.action_space(), continuous=continuous, state_dependent_std=state_dependent_std
        )
        sizes = (self.actor_encoder.size, *map(int, hidden_sizes))
        actor, critic = orthogonal_weights(
            (actor_key, critic_key), ((*sizes, self.head.num_outputs), (*sizes, 1)), (0.01, 1.0)
        )
        self.actor = MLP(actor, function, dropout)
        self.critic = MLP(critic, function, critic_dropout)

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""], PyTree]:
        actor_key, critic_key, entropy_key = jax.random.split(key, 3)
        if self.shared_masks:  # the same draws for layers of the same sizes
            critic_key = jax.random.clone(actor_key)
        value = self.critic(self.critic_encoder(observation), key=critic_key)
        outputs = self.actor(self.actor_encoder(observation), key=actor_key)
        distribution = self.head(outputs, mask=action_mask(observation), key=entropy_key)
        return distribution, value[0], state

    def initial_state(self) -> PyTree:
        return ()


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
    if shared_masks and (critic_dropout != dropout or dropout == 0):
        raise ValueError(
            "shared_masks gives the critic the actor's masks, which takes the actor's rate, above "
            f"0: got dropout = {dropout!r} and critic_dropout = {critic_dropout!r}; make them equal"
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
