"""Brax: robots in its own physics, `rlscan.make("brax:ant")`.

Extra `brax`, Python 3.11 on; superseded by Playground. Brax's own wrappers lose the last
observation and start each episode from one that was drawn before. Here the bare environment is
wrapped: every reset is new, and the time limit of 1000 steps, which is Brax's default for training,
is a truncation.
"""

import copy
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ..._core.spaces import Box
from ..._core.types import Environment
from .._auto_reset import AutoReset
from ._spaces import unbounded


def names() -> tuple[str, ...]:
    """List the environments."""
    from brax import envs  # pyright: ignore[reportMissingImports]

    return tuple(envs._envs)


def make(name: str, *, time_limit: int = 1000, **params: Any) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of Brax's.
    - `time_limit`: the number of steps after which an episode is truncated.
    - `params`: arguments of its constructor, such as `backend="spring"`.
    """
    from brax import envs  # pyright: ignore[reportMissingImports]

    env = envs.get_environment(name, **params)
    return AutoReset(Robot(Simulator(f"brax:{name}", env, "sys")), time_limit=time_limit)


class Simulator:
    """A simulated robot of Brax or Playground, as a constant: it is equal only to itself."""

    def __init__(self, name: str, env: Any, model: str):
        """**Arguments:**

        - `name`: what to call it.
        - `env`: the environment, without wrappers.
        - `model`: the attribute that holds its model.
        """
        self.name, self.env, self.model = name, env, model
        shapes = jax.eval_shape(env.reset, jax.random.key(0)).obs
        self.observation_space = unbounded(shapes)
        self.action_space = Box(-1.0, 1.0, (int(env.action_size),), np.float32)

    def __repr__(self) -> str:
        return self.name

    def with_model(self, changes: Mapping[str, Array]) -> Any:
        """The environment with changes to its model, by dotted names of its fields."""
        if not changes:
            return self.env
        env = copy.copy(self.env)
        setattr(env, self.model, getattr(env, self.model).tree_replace(dict(changes)))
        return env


class Robot(eqx.Module):
    """A robot of Brax or Playground, as an `rlscan.envs.RawEnvironment` that never truncates."""

    simulator: Simulator = eqx.field(static=True)
    changes: dict[str, Array] = eqx.field(default_factory=dict)
    """Changes to the model by dotted names of its fields, such as `{"opt.gravity": …}`."""

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        state = self.simulator.with_model(self.changes).reset(key)
        return state.obs, state

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        # Randomness comes from a key in the state.
        state = self.simulator.with_model(self.changes).step(state, action)
        return state.obs, state, state.reward, state.done, False

    def observation_space(self) -> Any:
        return self.simulator.observation_space

    def action_space(self) -> Box:
        return self.simulator.action_space
