"""Spaces that several suites need."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._core.spaces import Box


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Integers from 0, each with a number of values of its own."""

    values: tuple[int, ...]  # raveled
    shape: tuple[int, ...]
    dtype: Any = jnp.int32

    @property
    def nvec(self) -> np.ndarray:
        """The number of values of each integer."""
        return np.reshape(self.values, self.shape)


def unbounded(shapes: Any) -> Any:
    """The space of arrays of the given shapes and dtypes, in dicts as they are given.

    Booleans lie in [0, 1] and integers in the range of their dtype.
    """
    if isinstance(shapes, Mapping):
        return {name: unbounded(part) for name, part in shapes.items()}
    dtype = jnp.dtype(shapes.dtype)
    if jnp.issubdtype(dtype, jnp.bool_):
        return Box(0, 1, shapes.shape, dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return Box(int(limits.min), int(limits.max), shapes.shape, dtype)
    return Box(-np.inf, np.inf, shapes.shape, dtype)
