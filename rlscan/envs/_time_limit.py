"""`TimeLimit`: a wrapper that truncates episodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from .._core.environment import reset_env, step_env
from .._core.require import require_flag, require_positive
from .._core.types import Environment, PyTree, StepResult
from ._reset import reset_where
from ._wrappers import Wrapper


class TimeLimit(Wrapper):
    """An environment whose episodes are truncated after a number of steps.

    A limit of the inner environment holds as well; the shorter one comes first. A step that
    terminates the episode is not truncated too.
    """

    num_steps: int = eqx.field(static=True)
    """The number of steps after which an episode is truncated."""
    never_truncated: bool = eqx.field(static=True)
    """Whether the inner environment truncates no episode itself."""

    def __init__(self, env: Environment, num_steps: int, *, never_truncated: bool = False):
        """**Arguments:**

        - `env`: an environment.
        - `num_steps`: the number of steps after which an episode is truncated.
        - `never_truncated`: whether you know that `env`, which declares no time limit, never
            truncates an episode itself. Otherwise a rollout keeps memory for a last observation of
            each step.

        **Raises:** `ValueError` unless the number is a positive integer.
        """
        self.env, self.num_steps = env, require_positive("num_steps", num_steps)
        self.never_truncated = require_flag("never_truncated", never_truncated)

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "TimeLimitState"]:
        observation, state = reset_env(self.env, key)
        return observation, TimeLimitState(state, jnp.zeros((), jnp.int32))

    def step(self, key: PRNGKeyArray, state: "TimeLimitState", action: PyTree) -> StepResult:
        step_key, reset_key = jax.random.split(key)
        observation, inner, reward, terminated, truncated, info = step_env(
            self.env, step_key, state.env_state, action
        )
        time = state.time + 1
        # The inner environment has not reset itself in these steps.
        is_cut = (time >= self.num_steps) & ~(terminated | truncated)
        observation, inner = reset_where(
            is_cut, lambda: reset_env(self.env, reset_key), (observation, inner)
        )
        truncated = truncated | is_cut
        time = jnp.where(terminated | truncated, 0, time)
        return observation, TimeLimitState(inner, time), reward, terminated, truncated, info

    @property
    def time_limit(self) -> int | None:
        """The shorter one of both limits; `None` if the inner environment may truncate earlier."""
        inner = super().time_limit
        if inner is not None:
            return min(inner, self.num_steps)
        return self.num_steps if self.never_truncated else None


class TimeLimitState(eqx.Module):
    """The state of a `TimeLimit`."""

    env_state: PyTree
    time: Int[Array, "*N"]  # steps of the episode so far
