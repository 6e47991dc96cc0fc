"""`ObserveOnly`: an environment of which a part is seen."""

import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ._spaces import Box, bounds, is_box, space_dtype
from ._types import Environment, PyTree, StepResult


class ObserveOnly(eqx.Module):
    """An environment of which only some numbers of its observation `[d]` are seen.

    `ObserveOnly(rlscan.make("CartPole-v1"), [0, 2])` hides the velocities: what is left to see is
    where cart and pole are, and a policy without memory cannot tell where they are going.
    """

    env: Environment
    indices: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, env: Environment, indices: Sequence[int]):
        """**Arguments:**

        - `env`: whose observations are vectors.
        - `indices`: of the numbers that are seen, in the order in which they will be.

        **Raises:** `ValueError` for another observation, and for an index that it does not have.
        """
        self.env = env
        self.indices = tuple(map(operator.index, indices))
        space = env.observation_space()
        if not (is_box(space) and len(space.shape) == 1):
            raise ValueError(
                f"indices must be of an observation that is a vector (a Box [d]), got {space!r}; "
                "wrap the environment before its frames are stacked or its actions added"
            )
        check_indices("indices", self.indices, space.shape[0])

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        observation, state = self.env.reset(key)
        return self._seen(observation), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action)
        info = {**info, "final_observation": self._seen(info["final_observation"])}
        return self._seen(observation), state, reward, terminated, truncated, info

    def observation_space(self) -> Box:
        space = self.env.observation_space()
        low, high = (side[list(self.indices)] for side in bounds(space))
        return Box(low, high, low.shape, space_dtype(space))

    def action_space(self) -> Any:
        return self.env.action_space()

    @property
    def time_limit(self) -> int | None:
        return getattr(self.env, "time_limit", None)

    def _seen(self, observation: Array) -> Array:
        return observation[jnp.asarray(self.indices)]


def check_indices(name: str, indices: Sequence[int], size: int | None = None) -> None:
    """Raises `ValueError` for what cannot be the `indices` of `ObserveOnly`."""
    fits = all(0 <= index and (size is None or index < size) for index in indices)
    if not (indices and fits and len(set(indices)) == len(indices)):
        allowed = "from 0" if size is None else f"from 0 to {size - 1}"
        raise ValueError(
            f"{name} must be different indices of an observation, {allowed}, got {list(indices)}; "
            "such as [0, 2]"
        )
