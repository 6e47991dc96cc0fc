"""`PolicyConfig`: which policy a run trains, and which of its settings cannot be."""

import dataclasses
from typing import Literal

from .._core.require import require_one_of
from ..policies._action_head import Continuous, check_continuous
from ..policies._actor_critic import check_settings
from ..policies._encoder import check_num_channels
from ..policies._recurrent import check_recurrent_settings
from ..policies._transformer import check_transformer_settings

Kind = Literal["mlp", "gru", "lstm", "transformer"]


KINDS: tuple[Kind, ...] = ("mlp", "gru", "lstm", "transformer")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The policy: an rlscan.ActorCritic, RecurrentActorCritic or TransformerActorCritic."""

    kind: Kind = "mlp"
    """One of mlp; gru and lstm, with a recurrent core below the hidden layers; transformer."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, of the actor and of the critic; not of a transformer."""
    activation: str = "tanh"
    """Name of a function in jax.nn."""
    num_channels: tuple[int, ...] = (16,)
    """Of each 3 x 3 convolution of an image; with none, [], an image is a flat vector."""
    dropout: float = 0.1
    """Rate after each hidden layer of the actor, in [0, 1); also after a recurrent core; of a
    transformer, after the embedding and each sublayer."""
    critic_dropout: float = 0.0
    """Likewise of the critic; not of a transformer, whose critic reads what the actor does."""
    dropout_end: float | None = None
    """Rate at the end of the run, reached linearly; the same as at the start if not given."""
    shared_masks: bool = False
    """Whether the critic has the actor's masks, and its dropout_end; of an mlp."""
    continuous: Continuous = "gaussian"
    """How actions in a box are distributed: gaussian (clipped), tanh (squashed) or beta."""
    state_dependent_std: bool = False
    """Whether the scale of a Gaussian depends on the observation."""
    normalize_observations: bool = False
    """Whether observations are normalised by the mean and variance of those before."""
    hidden_size: int = 64
    """Numbers in the state of a gru or lstm."""
    recurrent_dropout: float = 0.0
    """Rate of what a gru or lstm reads of its state, with one mask for an episode."""
    context_length: int = 32
    """Steps that a transformer attends to."""
    num_layers: int = 2
    """Blocks of a transformer."""
    num_heads: int = 4
    """Attention heads in each block of a transformer; divides embed_size."""
    embed_size: int = 64
    """Numbers of a token of a transformer."""
    attention_dropout: float = 0.1
    """Rate of the attention weights of a transformer."""
    gated: bool = False
    """Whether the sublayers of a transformer are gated in, rather than added (GTrXL)."""


# Who takes a setting that not all do.
_RECURRENT: tuple[Kind, ...] = ("gru", "lstm")


_TAKEN_BY: dict[str, tuple[Kind, ...]] = {
    **dict.fromkeys(("hidden_sizes", "critic_dropout"), ("mlp", *_RECURRENT)),
    "shared_masks": ("mlp",),
    **dict.fromkeys(("hidden_size", "recurrent_dropout"), _RECURRENT),
    **dict.fromkeys(
        ("context_length", "num_layers", "num_heads", "embed_size", "attention_dropout", "gated"),
        ("transformer",),
    ),
}


def check_policy_config(policy: PolicyConfig) -> None:
    """Raises `ValueError` for a setting that cannot be, or that this kind of policy lacks."""
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
        list(policy.hidden_sizes),
        policy.activation,
        policy.dropout,
        policy.critic_dropout,
        policy.shared_masks,
    )
    check_num_channels(list(policy.num_channels))
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
    end = policy.dropout_end
    if end is not None and not 0 <= end < 1:
        raise ValueError(f"dropout_end must be in [0, 1), got {end!r}; 0 ends without")


def is_recurrent_kind(policy: PolicyConfig) -> bool:
    """Whether the policy carries a state, so that minibatches are taken over environments."""
    return policy.kind != "mlp"


def width_of(policy: PolicyConfig) -> int:
    """Units of the widest layer, but for convolutions."""
    if policy.kind == "transformer":
        return policy.embed_size
    core = (policy.hidden_size,) if is_recurrent_kind(policy) else ()
    return max((*core, *policy.hidden_sizes), default=1)
