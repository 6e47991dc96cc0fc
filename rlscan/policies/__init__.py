"""Actor-critic policies, their parts, and policies exported as programs."""

from .._core.spaces import action_mask as action_mask
from ._action_head import ActionHead as ActionHead
from ._actor_critic import ActorCritic as ActorCritic
from ._distributions import Beta as Beta, Joint as Joint, TanhNormal as TanhNormal
from ._encoder import Encoder as Encoder
from ._export import (
    ExportedPolicy as ExportedPolicy,
    export as export,
    load_exported as load_exported,
)
from ._normalized import NormalizedObservations as NormalizedObservations
from ._onnx import export_onnx as export_onnx
from ._recurrent import RecurrentActorCritic as RecurrentActorCritic
from ._transformer import TransformerActorCritic as TransformerActorCritic

__all__ = [
    "action_mask",
    "ActionHead",
    "ActorCritic",
    "Beta",
    "Joint",
    "TanhNormal",
    "Encoder",
    "ExportedPolicy",
    "export",
    "load_exported",
    "NormalizedObservations",
    "export_onnx",
    "RecurrentActorCritic",
    "TransformerActorCritic",
]
