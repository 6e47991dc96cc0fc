"""Jumanji: combinatorial and routing problems, `rlscan.make("jumanji:Snake-v1")`.

Extra `jumanji`, Python 3.11 on. A last step whose discount is not 0 is a truncation. Many of
Jumanji's environments report their own time limit as a termination, and it remains one.
Observations are dicts, with `"action_mask"` where Jumanji has one. Environments with an agent for
each row of the reward are not adapted. Some take a minute to compile.
"""

from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from ..._core.spaces import Box, Discrete
from ..._core.types import Environment
from .._auto_reset import AutoReset
from ._spaces import MultiDiscrete


def names() -> tuple[str, ...]:
    """List the registered environments."""
    import jumanji  # pyright: ignore[reportMissingImports]

    return tuple(jumanji.registered_environments())


def make(
    name: str, *, time_limit: int | None = None, final_slots: int | None = None, **params: Any
) -> Environment:
    """Make an environment.

    **Arguments:**

    - `name`: the name of the environment, one of Jumanji's.
    - `time_limit`: a limit that truncates, as for `rlscan.envs.AutoReset`, beside Jumanji's own.
    - `final_slots`: the number of last observations that a rollout keeps for each environment.
        Without it there is one for each `time_limit` steps, or for each step.
    - `params`: arguments of `jumanji.make`.
    """
    import jumanji  # pyright: ignore[reportMissingImports]

    env = jumanji.make(name, **params)
    if env.reward_spec.shape != ():
        raise ValueError(
            f"{name} has several agents, whose rewards are {list(env.reward_spec.shape)}, and only "
            "environments of one agent are adapted; jumanji.wrappers.MultiToSingleWrapper sums them"
        )
    return AutoReset(Problem(name, env), time_limit=time_limit, final_slots=final_slots)


class Problem:
    """An environment of Jumanji as an `rlscan.envs.RawEnvironment`."""

    def __init__(self, name: str, env: Any):
        self.name, self.env = name, env
        self._observation_space = _space(env.observation_spec)
        self._action_space = _space(env.action_spec)

    def __repr__(self) -> str:
        return f"jumanji:{self.name}"

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        state, timestep = self.env.reset(key)
        return _as_dicts(timestep.observation), state

    def step(self, key: PRNGKeyArray, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        # Randomness comes from a key in the state.
        state, timestep = self.env.step(state, action)
        over, nothing_follows = timestep.last(), timestep.discount == 0
        return (
            _as_dicts(timestep.observation),
            state,
            timestep.reward,
            over & nothing_follows,
            over & ~nothing_follows,
        )

    def observation_space(self) -> Any:
        return self._observation_space

    def action_space(self) -> Any:
        return self._action_space


def _as_dicts(observation: Any) -> Any:
    """An observation whose named tuples are dicts."""
    if not hasattr(observation, "_asdict"):
        return observation
    return {name: _as_dicts(part) for name, part in observation._asdict().items()}


def _space(spec: Any) -> Any:
    """The space of a spec of Jumanji; a nested one is a dict."""
    if hasattr(spec, "num_values"):
        values = np.asarray(spec.num_values)
        if values.ndim:
            return MultiDiscrete(tuple(values.ravel().tolist()), values.shape, spec.dtype)
        return Discrete(int(values), dtype=spec.dtype)
    if hasattr(spec, "shape"):
        low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
        return Box(np.asarray(low), np.asarray(high), tuple(spec.shape), spec.dtype)
    return {name: _space(part) for name, part in spec._specs.items()}
