"""The keys of a config, and the words for the values that each takes."""

import math
import typing

from .._core.require import did_you_mean
from ._axes import PARAMS
from ._config import COMPONENTS, GROUPS, KEYS, LISTS, Config, check, from_dict, to_dict
from ._sweep import EXAMPLES
from ._values import wanted_of

_NOT_ARGUMENTS = ("class_path", "init_args", "kind")

# What CleanRL, Stable-Baselines3 and purejaxrl call the settings whose names here are not near.
_ELSEWHERE = {
    "env_id": "env.name",
    "env_name": "env.name",
    "total_timesteps": "total_steps",
    "lr": "ppo.learning_rate",
    "anneal_lr": "ppo.anneal_learning_rate",
    "n_envs": "ppo.num_envs",
    "n_steps": "ppo.num_steps",
    "n_epochs": "ppo.num_epochs",
    "update_epochs": "ppo.num_epochs",
    "batch_size": "ppo.num_minibatches",
    "minibatch_size": "ppo.num_minibatches",
    "ent_coef": "ppo.entropy_coef",
    "vf_coef": "ppo.value_coef",
    "clip_coef": "ppo.clip_range",
    "clip_eps": "ppo.clip_range",
}


def is_key(key: str) -> bool:
    """Whether a dotted key such as `ppo.gamma` may hold a value.

    What the arguments of a class are is known when the class is.
    """
    return key in KEYS or key.startswith(PARAMS) or is_of_component(key)


def is_of_component(key: str) -> bool:
    """Whether a key names a class, or an argument of one."""
    group, _, name = key.partition(".")
    is_static = key in KEYS or key.startswith(PARAMS)
    return (group in COMPONENTS or group in LISTS) and not is_static and name != "help"


def nearest(key: str) -> str:
    """The end of an error about a key that does not exist: the edit that fixes it."""
    if key in GROUPS:
        return f"; set its keys one by one, such as {first_key(key)}"
    name = key.rpartition(".")[2].lower()
    if name in _ELSEWHERE:
        return f", did you mean {_ELSEWHERE[name]}?"
    return did_you_mean(key, [*KEYS, *COMPONENTS, *LISTS]) or "; --help lists all"


def first_key(prefix: str) -> str:
    """The first key that starts with `prefix`, as an example."""
    return next((key for key in KEYS if key.startswith(prefix)), f"{prefix}class_path")


def may_be_none(key: str) -> bool:
    """Whether a key takes null."""
    return type(None) in typing.get_args(KEYS[key])


def wanted(key: str) -> str:
    """The values that a key takes, in words."""
    if key == "sweep":
        return f"a list, with entries such as {EXAMPLES}"
    return f"{wanted_of(KEYS[key])}{' or .inf' if _may_be_infinite(key) else ''}"


def _may_be_infinite(key: str) -> bool:
    if KEYS[key] is not float:
        return False
    tree = to_dict(Config())
    *groups, name = key.split(".")
    node = tree[groups[0]] if groups else tree
    node[name] = math.inf
    try:
        check(from_dict(tree))
    except ValueError:
        return False
    return True
