"""`PolicyConfig`: the policy that a run trains."""

import dataclasses
from typing import Literal, get_args

from .._core.require import require_one_of, require_rate
from ..policies._action_head import Continuous, check_continuous
from ..policies._actor_critic import check_settings
from ..policies._encoder import check_num_channels
from ..policies._recurrent import CELLS, check_recurrent_settings
from ..policies._transformer import check_transformer_settings

Kind = Literal["mlp", "gru", "lstm", "transformer"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The policy: one of the classes in `rlscan.policies`."""

    kind: Kind = "mlp"
    """Architecture of the policy. gru and lstm put a recurrent core before the hidden layers."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Number of units in each hidden layer, in the actor and in the critic. Not for a
    transformer."""
    activation: str = "tanh"
    """Activation function, named as in jax.nn."""
    num_channels: tuple[int, ...] = (16,)
    """Number of channels of each 3 x 3 convolution over an image. If it is [], images are
    flattened."""
    dropout: float = 0.1
    """Dropout rate, in [0, 1). An mlp has dropout after each hidden layer of the actor, a gru or
    lstm also after its recurrent core, and a transformer after the embedding and each sublayer."""
    critic_dropout: float = 0.0
    """Dropout rate after each hidden layer of the critic, in [0, 1). Not for a transformer, whose
    actor and critic share their layers."""
    dropout_end: float | None = None
    """Value of dropout at the end of the run; it changes linearly. If null, it stays constant."""
    shared_masks: bool = False
    """Whether the critic uses the dropout masks of the actor, and its dropout_end. Only for an mlp;
    needs critic_dropout = dropout."""
    continuous: Continuous = "gaussian"
    """Distribution of continuous actions: a Gaussian that is clipped to the bounds, a Gaussian that
    tanh squashes into them, or a Beta distribution."""
    state_dependent_std: bool = False
    """Whether the standard deviation of a Gaussian depends on the observation."""
    normalize_observations: bool = False
    """Whether to normalise observations by their running mean and variance."""
    hidden_size: int = 64
    """Number of units in the recurrent core of a gru or lstm."""
    recurrent_dropout: float = 0.0
    """Dropout rate inside the recurrent core of a gru or lstm, with one mask per episode."""
    context_length: int = 32
    """Number of steps that a transformer attends to."""
    num_layers: int = 2
    """Number of blocks in a transformer."""
    num_heads: int = 4
    """Number of attention heads in each block of a transformer. Must divide embed_size."""
    embed_size: int = 64
    """Size of the embedding in a transformer."""
    attention_dropout: float = 0.1
    """Dropout rate of the attention weights in a transformer."""
    gated: bool = False
    """Whether a transformer has gates in place of residual connections, as in GTrXL."""


# The kinds that take a setting, for the settings that not all kinds take.
_TAKEN_BY: dict[str, tuple[Kind, ...]] = {
    **dict.fromkeys(("hidden_sizes", "critic_dropout"), ("mlp", *CELLS)),
    "shared_masks": ("mlp",),
    **dict.fromkeys(("hidden_size", "recurrent_dropout"), CELLS),
    **dict.fromkeys(
        ("context_length", "num_layers", "num_heads", "embed_size", "attention_dropout", "gated"),
        ("transformer",),
    ),
}


def check_policy_config(policy: PolicyConfig) -> None:
    """Raise `ValueError` for an invalid setting, or one that this kind of policy lacks."""
    require_one_of("kind", policy.kind, KINDS)
    for field in dataclasses.fields(policy):
        value, takers = getattr(policy, field.name), _TAKEN_BY.get(field.name, KINDS)
        if policy.kind not in takers and value != field.default:
            shown = list(value) if isinstance(value, tuple) else value
            raise ValueError(
                f"{field.name} = {shown} is a setting of {' and '.join(takers)}, but policy.kind "
                f"is {policy.kind}, which does not take it; leave it out, or set policy.kind"
            )
    check_settings(
        policy.hidden_sizes,
        policy.activation,
        policy.dropout,
        policy.critic_dropout,
        policy.shared_masks,
    )
    check_num_channels(policy.num_channels)
    check_continuous(policy.continuous, policy.state_dependent_std)
    check_recurrent_settings("gru", policy.hidden_size, policy.recurrent_dropout)
    check_transformer_settings(
        policy.context_length,
        policy.num_layers,
        policy.num_heads,
        policy.embed_size,
        policy.attention_dropout,
        policy.gated,
    )
    if policy.dropout_end is not None:
        require_rate("dropout_end", policy.dropout_end)


def is_recurrent_kind(policy: PolicyConfig) -> bool:
    """Whether the policy carries a state, so that a minibatch consists of whole environments."""
    return policy.kind != "mlp"


def width_of(policy: PolicyConfig) -> int:
    """Number of units in the widest layer, not counting convolutions."""
    if policy.kind == "transformer":
        return policy.embed_size
    core = (policy.hidden_size,) if is_recurrent_kind(policy) else ()
    return max((*core, *policy.hidden_sizes), default=1)
