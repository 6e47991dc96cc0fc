"""XLand-MiniGrid, `rlscan.make("xland:MiniGrid-Empty-8x8")`.

Extra `xland`, Python 3.11 on. The suite truncates at its own limit, which is declared. An
XLand environment has the ruleset that it is made with: pass `ruleset=` from a benchmark of the
suite, which downloads it; without one there is no goal. Observations are the agent's view `[V, V,
2]` of tiles and colours, as uint8.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..._core.spaces import Box, Discrete
from ..._core.types import Environment
from .._auto_reset import AutoReset


def names() -> tuple[str, ...]:
    """List the registered environments."""
    import xminigrid  # pyright: ignore[reportMissingImports]

    return tuple(xminigrid.registered_environments())


def make(name: str, **params: Any) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of the suite's.
    - `params`: its parameters, such as `max_steps`, `view_size` or `ruleset`.
    """
    import xminigrid  # pyright: ignore[reportMissingImports]

    env, defaults = xminigrid.make(name)
    raw = Grid(name, env, defaults.replace(**params))
    return AutoReset(raw, time_limit=int(raw.params.max_steps))


class Grid:
    """An environment of XLand-MiniGrid as an `rlscan.envs.RawEnvironment`."""

    def __init__(self, name: str, env: Any, params: Any):
        self.name, self.env, self.params = name, env, params
        shape = jax.eval_shape(self.reset, jax.random.key(0))[0]
        self._observation_space = Box(0, 255, shape.shape, shape.dtype)

    def __repr__(self) -> str:
        return f"xland:{self.name}"

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        timestep = self.env.reset(self.params, key)
        return timestep.observation, timestep

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        # Randomness comes from a key in the state.
        timestep = self.env.step(self.params, state, jnp.asarray(action))
        over, nothing_follows = timestep.last(), timestep.discount == 0
        return (
            timestep.observation,
            timestep,
            timestep.reward,
            over & nothing_follows,
            over & ~nothing_follows,
        )

    def observation_space(self) -> Box:
        return self._observation_space

    def action_space(self) -> Discrete:
        return Discrete(int(self.env.num_actions(self.params)))
