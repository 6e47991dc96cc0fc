"""Spaces, read by their attributes, so that gymnax's, Gymnasium's and a user's own all do."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._types import PyTree


def is_discrete(space: Any) -> bool:
    """One of n integers. Gymnasium's MultiBinary has an `n` as well, but is an array of them."""
    return hasattr(space, "n") and getattr(space, "shape", ()) == ()


def is_box(space: Any) -> bool:
    """Arrays between `low` and `high`."""
    return all(hasattr(space, name) for name in ("low", "high", "shape"))


def bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """`(low, high)` of a box, each of the box's shape, float32; ±inf where it is unbounded.

    gymnax writes a missing bound as the largest float, which is nothing one could scale by.
    """
    largest = np.finfo(np.float32).max
    sides = [
        np.broadcast_to(np.asarray(side, np.float32), space.shape)
        for side in (space.low, space.high)
    ]
    low, high = (np.where(np.abs(s) >= largest, np.copysign(np.inf, s), s) for s in sides)
    return low, high


def legal_action(space: Any, action: PyTree) -> PyTree:
    """The action that the environment is sent for an action that the policy sampled.

    The one place where the two part. A trajectory holds the sample, as it is the sample's
    log-probability that was recorded; a Gaussian's may lie outside its box, and is clipped here.
    A category counts from 0, and the integers of a space may begin elsewhere.
    """
    if is_box(space):
        return jnp.clip(action, space.low, space.high)
    if is_discrete(space):
        return action + getattr(space, "start", 0)  # Gymnasium's may begin elsewhere than at 0
    return action


def one_hot(observation: Any, num_categories: int) -> Float[Array, " num_categories"]:
    """Integers as vectors: state 7 is not seven times state 1."""
    return (jnp.arange(num_categories) == observation).astype(jnp.float32)


ACTION_MASK = "action_mask"
"""Where a dict of an observation says which actions are allowed."""


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays between two bounds, each a number or an array of the shape; of a wrapper's own."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = jnp.float32


@dataclasses.dataclass(frozen=True)
class Nested:
    """A dict or a tuple of spaces."""

    spaces: dict[str, Any] | tuple[Any, ...]


def parts_of(space: Any) -> dict[str, Any] | tuple[Any, ...] | None:
    """The spaces in a dict or a tuple of them, bare or with an attribute `spaces`; else `None`."""
    if is_box(space) or is_discrete(space):  # either may be a named tuple
        return None
    parts = getattr(space, "spaces", space)
    if isinstance(parts, Mapping):
        return dict(parts)
    return tuple(parts) if isinstance(parts, tuple | list) else None


def space_dtype(space: Any) -> Any:
    """What it declares, or float32."""
    return getattr(space, "dtype", jnp.float32)
