"""`FlattenObservation`: a wrapper that makes a vector of any observation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._core.environment import observation_space_of, reset_env, step_env
from .._core.spaces import (
    ACTION_MASK,
    Box,
    Nested,
    Path,
    action_mask,
    bounds,
    is_box,
    is_discrete,
    is_mask,
    map_space,
    num_categories,
    one_hot,
    parts_of,
    space_dtype,
    space_leaves,
)
from .._core.types import Environment, PyTree, StepResult
from ._wrappers import Wrapper


class FlattenObservation(Wrapper):
    """An environment whose observation is one vector, `[d]`.

    The parts of a dict or a tuple are joined in the order in which JAX flattens them. Arrays are
    raveled, and integers of a Discrete, a MultiDiscrete or a MultiBinary become one-hot vectors.
    The vector has the dtype that all parts share, such as uint8; otherwise it is float32. An action
    mask stays what it is: the observation is then `{"observation": …, "action_mask": …}`.
    """

    def __init__(self, env: Environment):
        """**Arguments:**

        - `env`: an environment whose observations are Boxes, integers, or dicts and tuples of them.

        **Raises:** `ValueError` for another observation space.
        """
        self.env = env
        self.observation_space()  # so that a space that cannot be flattened is refused here

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        observation, state = reset_env(self.env, key)
        return self._flatten(observation), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = step_env(
            self.env, key, state, action
        )
        info = {**info, "final_observation": self._flatten(info["final_observation"])}
        return self._flatten(observation), state, reward, terminated, truncated, info

    def observation_space(self) -> Any:
        space = observation_space_of(self.env)
        sides = [_bounds(leaf) for path, leaf in space_leaves(space) if not is_mask(path)]
        if not sides:
            raise ValueError(f"FlattenObservation needs something to flatten, got {space!r}")
        low, high = (np.concatenate(side) for side in zip(*sides, strict=True))
        vector, mask = Box(low, high, low.shape, self._dtype()), _mask_space(space)
        return vector if mask is None else Nested({"observation": vector, ACTION_MASK: mask})

    def _flatten(self, observation: PyTree) -> PyTree:
        parts: list[Array] = []

        def add(path: Path, space: Any, x: Any) -> None:
            if not is_mask(path):
                parts.append(_vector(space, x))

        map_space(add, observation_space_of(self.env), observation, allow_extra=True)
        dtype = self._dtype()
        vector = jnp.concatenate([part.astype(dtype) for part in parts])
        mask = action_mask(observation)
        return vector if mask is None else {"observation": vector, ACTION_MASK: mask}

    def _dtype(self) -> Any:
        leaves = space_leaves(observation_space_of(self.env))
        dtypes = {
            jnp.dtype(space_dtype(leaf) if is_box(leaf) else jnp.float32)
            for path, leaf in leaves
            if not is_mask(path)
        }
        return dtypes.pop() if len(dtypes) == 1 else jnp.dtype(jnp.float32)


def _bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the vector of a leaf."""
    if is_box(space):
        low, high = bounds(space)
        return low.ravel(), high.ravel()
    size = int(_categories(space).sum())
    return np.zeros(size, np.float32), np.ones(size, np.float32)


def _vector(space: Any, x: Any) -> Array:
    """The vector of an element of a leaf."""
    if is_box(space):
        return jnp.ravel(x)
    counts = _categories(space)
    offsets = jnp.ravel(jnp.asarray(x) - jnp.asarray(getattr(space, "start", 0)))
    return jnp.concatenate([one_hot(i, int(n)) for i, n in zip(offsets, counts, strict=True)])


def _categories(space: Any) -> np.ndarray:
    """The number of values of each integer of a leaf, `[k]`."""
    if is_discrete(space):
        return np.array([int(space.n)])
    counts = num_categories(space)
    if counts is None:
        raise ValueError(
            "FlattenObservation flattens a Box, a Discrete, a MultiDiscrete, a MultiBinary, or "
            f"dicts and tuples of them, got {space!r}"
        )
    return counts.ravel()


def _mask_space(space: Any) -> Any:
    """The space of the action mask within a space, as `action_mask` finds it; `None` without."""
    parts = parts_of(space)
    if parts is None:
        return None
    names = getattr(parts, "_fields", range(len(parts)))
    entries: Any = parts if isinstance(parts, dict) else dict(zip(names, parts, strict=True))
    if ACTION_MASK in entries:
        return entries[ACTION_MASK]
    found = (_mask_space(part) for part in entries.values())
    return next((mask for mask in found if mask is not None), None)
