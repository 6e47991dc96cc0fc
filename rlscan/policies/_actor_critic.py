"""`ActorCritic`: separate feed-forward networks for actor and critic."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.environment import action_space_of, observation_space_of
from .._core.require import is_known, is_positive_integer
from .._core.spaces import action_mask
from .._core.types import Distribution, HasSpaces, PyTree
from ..nn._dropout import Schedule, as_rate
from ..nn._mlp import MLP, orthogonal_weights
from ..random._keys import KeyLike, as_key
from ._action_head import ActionHead, Continuous
from ._encoder import NUM_CHANNELS, as_activation
from ._own_encoder import encode, make_encoder


class ActorCritic(eqx.Module):
    """A feed-forward policy for one observation; by default two hidden layers of 64 with tanh.

    It takes the observations that an `rlscan.policies.Encoder` takes, and the actions that an
    `rlscan.policies.ActionHead` takes. If an observation is a dict with an `"action_mask"`,
    illegal actions get a probability of 0.
    """

    # Actor and critic have an encoder each, because the critic's larger gradients would dominate a
    # shared one; separate networks did better in Andrychowicz et al. (2021, arXiv:2006.05990).
    # It also makes the whole critic dead code in a rollout.
    actor_encoder: Callable[..., Any]
    """Maps an observation to the actor's input."""
    critic_encoder: Callable[..., Any]
    """Maps an observation to the critic's input."""
    actor: MLP
    """The layers whose outputs the head takes."""
    critic: MLP
    """The layers whose output is the value."""
    head: ActionHead
    """Maps the actor's outputs to a distribution."""
    shared_masks: bool = eqx.field(static=True)
    """Whether the critic uses the actor's masks."""

    def __init__(
        self,
        env: HasSpaces,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str | Callable[[Array], Array] = "tanh",
        num_channels: Sequence[int] = NUM_CHANNELS,
        encoder: Callable[..., Any] | None = None,
        dropout: float | int | Array | Schedule = 0.0,
        critic_dropout: float | int | Array | Schedule | None = None,
        shared_masks: bool = False,
        continuous: Continuous = "gaussian",
        state_dependent_std: bool = False,
        key: KeyLike,
    ):
        """Orthogonal initialisation with gains √2 (hidden), 0.01 (actor) and 1 (critic).

        A gain is the standard deviation of a unit before its activation if its inputs have variance
        1, however few they are. Elsewhere in PPO the first layer of a wide network is scaled by the
        number of its units instead, so that it hardly sees an observation of a few numbers.

        **Arguments:**

        - `env`: the environment whose spaces the policy is built for, or an `rlscan.envs.Spaces`.
        - `hidden_sizes`: units of each hidden layer of the actor, and likewise of the critic.
        - `activation`: of hidden layers and convolutions; a function, or the name of one in
            `jax.nn`.
        - `num_channels`: of each 3 × 3 convolution of an image `[height, width, channels]`, in the
            actor and in the critic; if empty, images are flattened.
        - `encoder`: your own in place of `rlscan.policies.Encoder`: a class or a function, called
            as `encoder(space, key=key)` for the actor and again for the critic. It gives an
            `eqx.Module` that maps an observation to a vector `[size]`, with or without an argument
            `key` for noise; or an `rlscan.nn.WithStatistics`, whose network returns the vector
            first. The action mask, if there is one, is a part of what it sees.
        - `dropout`: the rate after each hidden layer of the actor, in [0, 1); or a schedule of it
            over updates, see `rlscan.nn.AnnealedDropout`. Convolutions have no dropout. A JAX array
            of shape `()` stays an array that no gradient step changes, so that one program can be
            traced for, and mapped over, many rates.
        - `critic_dropout`: the same for the critic. If it is left out, it is that of the actor with
            `shared_masks`, and 0 without.
        - `shared_masks`: whether the critic uses the actor's masks, so that its value is that of
            the network that acts; both rates must be equal. For masks that last longer than a step,
            see `rlscan.rollout`.
        - `continuous`: the distribution of actions in a box: `"gaussian"`, clipped to the box;
            `"tanh"`, a Gaussian whose tanh is scaled to the box; or `"beta"`.
        - `state_dependent_std`: whether the scale of a Gaussian depends on the observation, instead
            of being a learned parameter for each component.
        - `key`: consumed.

        **Raises:** `ValueError` for a space, a rate, a size or a name that does not fit.
        """
        if critic_dropout is None:
            critic_dropout = dropout if shared_masks else 0.0
        check_settings(hidden_sizes, activation, dropout, critic_dropout, shared_masks)
        function = as_activation(activation)
        keys = jax.random.split(as_key(key), 4)
        actor_key, critic_key, actor_encoder_key, critic_encoder_key = keys
        self.shared_masks = shared_masks

        space = observation_space_of(env)
        (self.actor_encoder, size), (self.critic_encoder, critic_size) = (
            make_encoder(encoder, space, key=k, num_channels=num_channels, activation=function)
            for k in (actor_encoder_key, critic_encoder_key)
        )
        if critic_size != size:
            raise ValueError(
                "encoder must give vectors of one size for the actor and the critic, got "
                f"{size} and {critic_size}; build both from the space alone"
            )
        self.head = ActionHead(
            action_space_of(env), continuous=continuous, state_dependent_std=state_dependent_std
        )
        sizes = (size, *map(int, hidden_sizes))
        self.actor, self.critic = actor_and_critic(
            (actor_key, critic_key),
            sizes,
            self.head.num_outputs,
            function,
            (dropout, critic_dropout),
        )

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Float[Array, ""], PyTree]:
        actor_key, critic_key, entropy_key = jax.random.split(key, 3)
        if self.shared_masks:  # one key gives layers of the same sizes the same masks
            critic_key = jax.random.clone(actor_key)
        encoded = encode(self.critic_encoder, observation, critic_key)
        value = self.critic(encoded, key=critic_key)
        outputs = self.actor(encode(self.actor_encoder, observation, actor_key), key=actor_key)
        distribution = self.head(outputs, mask=action_mask(observation), key=entropy_key)
        return distribution, value[0], state

    def initial_state(self) -> PyTree:
        return ()


def actor_and_critic(
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    sizes: tuple[int, ...],
    num_outputs: int,
    activation: Callable[[Array], Array],
    rates: tuple[float | int | Array | Schedule, float | int | Array | Schedule],
) -> tuple[MLP, MLP]:
    """MLPs of equal `sizes` for the actor, with `num_outputs`, and for the critic, with one.

    `keys` and `rates` of dropout are those of the actor and of the critic. The actor's small final
    gain makes the first policy nearly independent of the observation.
    """
    actor, critic = orthogonal_weights(keys, ((*sizes, num_outputs), (*sizes, 1)), (0.01, 1.0))
    return MLP(actor, activation, rates[0]), MLP(critic, activation, rates[1])


def check_settings(
    hidden_sizes: Sequence[int],
    activation: str | Callable[[Array], Array],
    dropout: float | int | Array | Schedule,
    critic_dropout: float | int | Array | Schedule,
    shared_masks: bool = False,
) -> None:
    """Raise `ValueError` for an invalid setting of `ActorCritic`."""
    for name, rate in (("dropout", dropout), ("critic_dropout", critic_dropout)):
        if not callable(rate):
            as_rate(name, rate)
    if shared_masks and not _are_shared(dropout, critic_dropout):
        raise ValueError(
            "shared_masks needs equal rates above 0 for actor and critic, got "
            f"dropout = {dropout!r} and critic_dropout = {critic_dropout!r}; make them equal, or "
            "leave critic_dropout out"
        )
    if not (isinstance(hidden_sizes, Sequence) and all(map(is_positive_integer, hidden_sizes))):
        got = list(hidden_sizes) if isinstance(hidden_sizes, Sequence) else hidden_sizes
        raise ValueError(f"hidden_sizes must be positive integers, got {got}; such as [64, 64]")
    as_activation(activation)


def _are_shared(rate: Any, critic_rate: Any) -> bool:
    """Whether two rates are known to be equal, and not known to be 0."""
    if not (is_known(rate) and is_known(critic_rate)):
        return rate is critic_rate
    return bool(rate == critic_rate) and bool(rate != 0)
