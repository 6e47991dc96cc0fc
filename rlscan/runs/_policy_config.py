"""`PolicyConfig`: the policy that a run trains."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .._core.require import did_you_mean, require_rate
from ..policies._action_head import check_continuous
from ..policies._actor_critic import ActorCritic, check_settings
from ..policies._encoder import check_num_channels
from ..policies._recurrent import CELLS, RecurrentActorCritic, check_recurrent_settings
from ..policies._transformer import TransformerActorCritic, check_transformer_settings
from ._component import Component, find, is_component, is_own, parameters

# The class that `policy.kind` stands for, and the arguments that it sets.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("rlscan.policies.ActorCritic", {}),
    **{cell: ("rlscan.policies.RecurrentActorCritic", {"cell": cell}) for cell in CELLS},
    "transformer": ("rlscan.policies.TransformerActorCritic", {}),
}

# Settings that every kind had once, with the defaults that other kinds ignored.
_OF_OTHER_KINDS = {
    "hidden_sizes": [64, 64],
    "critic_dropout": 0.0,
    "shared_masks": False,
    "hidden_size": 64,
    "recurrent_dropout": 0.0,
    "context_length": 32,
    "num_layers": 2,
    "num_heads": 4,
    "embed_size": 64,
    "attention_dropout": 0.1,
    "gated": False,
}


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The policy: a class of rlscan's or of your own, and its arguments.

    Each argument of the class is a key: --policy.dropout 0.1. `--policy.help` lists them.
    """

    class_path: str = KINDS["mlp"][0]
    """Class of the policy, or a function that makes one, called as MyPolicy(env, key=key,
    **init_args): my_module.MyPolicy. --policy is short for it, and --policy.kind for one of
    rlscan's: mlp, gru, lstm or transformer."""
    init_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the class by name."""
    dropout_end: float | None = None
    """Value of the argument dropout at the end of the run; it changes linearly. If null, it stays
    constant."""
    normalize_observations: bool = False
    """Whether to normalise observations by their running mean and variance."""

    @property
    def component(self) -> Component:
        """The class and its arguments."""
        return Component(self.class_path, self.init_args)


def policy_config(kind: str = "mlp", **settings: Any) -> PolicyConfig:
    """The config of one of rlscan's policies, from its kind and its settings."""
    class_path, init_args = KINDS[kind]
    own = {f.name for f in dataclasses.fields(PolicyConfig)}
    of_class = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    arguments = {k: v for k, v in of_class.items() if k not in own}
    rest = {k: v for k, v in settings.items() if k in own}
    return PolicyConfig(class_path, {**init_args, **arguments}, **rest)


def without_other_kinds(class_path: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the settings of other kinds, as configs of early runs have them."""
    takes = parameters(find(class_path, key="policy.class_path"))
    return {
        name: value
        for name, value in arguments.items()
        if name in takes or name not in _OF_OTHER_KINDS or value != _OF_OTHER_KINDS[name]
    }


def settings_of(policy: PolicyConfig) -> dict[str, Any]:
    """The arguments of a policy of rlscan's that are plain, and the defaults of its class.

    Empty for another class.
    """
    if not is_own(policy.class_path):
        return {}
    found = parameters(find(policy.class_path, key="policy.class_path"))
    defaults = {name: p.default for name, p in found.items() if p.default is not p.empty}
    plain = {name: value for name, value in policy.init_args.items() if not is_component(value)}
    return {**defaults, **plain}


def check_policy_config(policy: PolicyConfig) -> None:
    """Raise `ValueError` for a setting that one of rlscan's policies does not accept.

    A class of one's own checks its arguments itself, when it is built.
    """
    if is_own(policy.class_path):
        target = find(policy.class_path, key="class_path")
        for name in policy.init_args:
            if name not in parameters(target):
                near = did_you_mean(name, parameters(target))
                raise ValueError(f"{name} is no argument of {policy.class_path}{near}")
        _CHECKS.get(target, lambda _: None)(settings_of(policy))
    if policy.dropout_end is not None:
        require_rate("dropout_end", policy.dropout_end)


def _check_network(settings: Mapping[str, Any]) -> None:
    rate, critic_rate = settings["dropout"], settings["critic_dropout"]
    shared_masks = settings.get("shared_masks", False)
    if critic_rate is None:
        critic_rate = rate if shared_masks else 0.0
    sizes, activation = settings["hidden_sizes"], settings["activation"]
    check_settings(sizes, activation, rate, critic_rate, shared_masks)
    _check_ends(settings)


def _check_ends(settings: Mapping[str, Any]) -> None:
    check_num_channels(settings["num_channels"])
    check_continuous(settings["continuous"], settings["state_dependent_std"])


def _check_recurrent(settings: Mapping[str, Any]) -> None:
    names = ("cell", "hidden_size", "recurrent_dropout")
    check_recurrent_settings(*(settings[name] for name in names))
    _check_network(settings)


def _check_transformer(settings: Mapping[str, Any]) -> None:
    names = (
        "context_length",
        "num_layers",
        "num_heads",
        "embed_size",
        "attention_dropout",
        "gated",
    )
    check_transformer_settings(**{name: settings[name] for name in names})
    check_settings([1], settings["activation"], settings["dropout"], 0.0)
    _check_ends(settings)


_CHECKS: dict[Any, Callable[[Mapping[str, Any]], None]] = {
    ActorCritic: _check_network,
    RecurrentActorCritic: _check_recurrent,
    TransformerActorCritic: _check_transformer,
}


def may_recur(policy: PolicyConfig) -> bool:
    """Whether the policy carries a state, so that a minibatch consists of whole environments.

    Of a class of one's own this is not known before it is built.
    """
    return policy.class_path in (KINDS["gru"][0], KINDS["transformer"][0])


def width_of(policy: PolicyConfig) -> int:
    """Number of units in the widest layer, not counting convolutions.

    Of a class of one's own it is the largest integer among the arguments.
    """
    settings = settings_of(policy) or policy.init_args
    own = ("hidden_sizes", "hidden_size", "embed_size") if is_own(policy.class_path) else settings
    sizes: list[Any] = []
    for name in own:
        value = settings.get(name)
        sizes += value if isinstance(value, list | tuple) else [value]
    return max((x for x in sizes if type(x) is int), default=1)
