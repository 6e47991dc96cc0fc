"""MuJoCo Playground: robots in MJX, `rlscan.make("playground:CartpoleBalance")`.

Extra `playground`, Python 3.11 on; it brings MuJoCo and Warp. The models of its dm_control suite
are part of the package; those of locomotion and manipulation are cloned from GitHub when they are
first used. `impl="jax"`, which runs on CPUs too, is chosen here instead of Warp's. Playground's
wrapper for training starts each episode from one that was drawn before, and loses the last
observation. Here the bare environment is wrapped: every reset is new, and the `episode_length` of
the task is a truncation. Observations may be dicts, with a `privileged_state` for the critic.
"""

from typing import Any

from ..._core.require import did_you_mean
from ..._core.tree import flatten_keys
from ..._core.types import Environment
from .._actions import ActionRepeat
from .._auto_reset import AutoReset
from ._brax import Robot, Simulator


def names() -> tuple[str, ...]:
    """List the environments."""
    from mujoco_playground import registry  # pyright: ignore[reportMissingImports]

    return tuple(registry.ALL_ENVS)


def make(name: str, **params: Any) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of Playground's.
    - `params`: settings of its config, such as `episode_length=200`; those in groups as dicts.
    """
    from mujoco_playground import registry  # pyright: ignore[reportMissingImports]

    config, given = registry.get_default_config(name), flatten_keys(params)
    known = flatten_keys(config.to_dict())
    for setting in given.keys() - known.keys() - {"impl"}:
        raise ValueError(f"there is no setting {setting}{did_you_mean(setting, known)}")
    config.update_from_flattened_dict({"impl": "jax", **given})
    env = registry.load(name, config=config)
    raw = Robot(Simulator(f"playground:{name}", env, "_mjx_model"))
    repeats = int(config.get("action_repeat", 1))
    made = AutoReset(raw, time_limit=int(config.episode_length))
    return made if repeats == 1 else ActionRepeat(made, repeats)
