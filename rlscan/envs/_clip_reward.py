"""`ClipReward`: a wrapper that bounds rewards."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._core.environment import step_env
from .._core.require import as_plain, is_number
from .._core.types import Environment, PyTree, StepResult
from ._wrappers import Wrapper


class ClipReward(Wrapper):
    """An environment whose rewards are clipped to an interval.

    The returns that training reports are sums of clipped rewards. `rlscan.evaluate` in the inner
    environment gives the others.
    """

    low: float = eqx.field(static=True)
    """The least reward."""
    high: float = eqx.field(static=True)
    """The largest reward."""

    def __init__(self, env: Environment, low: float | int = -1.0, high: float | int = 1.0):
        """**Arguments:**

        - `env`: an environment.
        - `low`, `high`: the least and the largest reward.

        **Raises:** `ValueError` unless `low` is a number below `high`.
        """
        low, high = as_plain(low), as_plain(high)
        if not (is_number(low) and is_number(high) and low < high):
            raise ValueError(
                f"low and high must be two numbers, low < high, got {low!r} and {high!r}; such as "
                "-1 and 1"
            )
        self.env, self.low, self.high = env, float(low), float(high)

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        result = step_env(self.env, key, state, action)
        return *result[:2], jnp.clip(result[2], self.low, self.high), *result[3:]
