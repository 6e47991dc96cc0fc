"""Craftax and Craftax-Classic, `rlscan.make("craftax:Craftax-Classic-Symbolic-v1")`.

Extra `craftax`, Python 3.11 on; it brings pygame. Craftax merges both ends into one `done`, so the
time limit is switched off inside and counted here: a death is a termination, the end of time a
truncation. The first compilation takes half a minute and more. Its pixels are floats from 0 to 1.
"""

from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ..._core.spaces import Discrete
from ..._core.types import Environment
from .._auto_reset import AutoReset
from ._spaces import unbounded


def names() -> tuple[str, ...]:
    """List the environments."""
    return tuple(
        f"Craftax-{kind}-v1"
        for kind in ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels")
    )


def make(name: str, **params: Any) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of Craftax's.
    - `params`: fields of its `EnvParams`, such as `max_timesteps`, the time limit.
    """
    from craftax.craftax_env import (  # pyright: ignore[reportMissingImports]
        make_craftax_env_from_name,
    )

    env = make_craftax_env_from_name(name, auto_reset=False)
    params_of_env = env.default_params.replace(**params)
    limit = int(params_of_env.max_timesteps)
    raw = World(name, env, params_of_env.replace(max_timesteps=2**30))
    return AutoReset(raw, time_limit=limit)


class World:
    """An environment of Craftax without a time limit, as an `rlscan.envs.RawEnvironment`."""

    def __init__(self, name: str, env: Any, params: Any):
        self.name, self.env, self.params = name, env, params
        self._shape = jax.eval_shape(self.reset, jax.random.key(0))[0]

    def __repr__(self) -> str:
        return f"craftax:{self.name}"

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return self.env.reset(key, self.params)

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, state, reward, died, _ = self.env.step(key, state, action, self.params)
        return observation, state, reward, died, False

    def observation_space(self) -> Any:
        return unbounded(self._shape)

    def action_space(self) -> Discrete:
        return Discrete(self.env.action_space(self.params).n)
