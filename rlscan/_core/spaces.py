"""Spaces, read by their attributes, so that gymnax's, Gymnasium's and a user's own all do."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .types import PyTree

ACTION_MASK = "action_mask"
"""The key of an observation under which an environment says which actions are legal."""


Path = tuple[str | int, ...]


def is_discrete(space: Any) -> bool:
    """One of n integers. Gymnasium's MultiBinary has an `n` as well, but is an array of them."""
    return hasattr(space, "n") and getattr(space, "shape", ()) == ()


def is_box(space: Any) -> bool:
    """Arrays between `low` and `high`."""
    return all(hasattr(space, name) for name in ("low", "high", "shape"))


def is_composite(space: Any) -> bool:
    """A Dict or a Tuple of other spaces, or simply a dict or a tuple of them."""
    if is_box(space) or is_discrete(space):  # either may be a named tuple
        return False
    return isinstance(getattr(space, "spaces", space), Mapping | tuple | list)


def num_categories(space: Any) -> np.ndarray | None:
    """How many values each integer of an array may have, of the space's shape; `None` if it is
    not of integers: MultiDiscrete has `nvec`, and MultiBinary's are two each."""
    if hasattr(space, "nvec"):
        return np.asarray(space.nvec, np.int64)
    if hasattr(space, "n") and not is_discrete(space):
        return np.full(space.shape, 2)
    return None


def children(space: Any) -> dict[str, Any] | tuple[Any, ...]:
    """The spaces that a Dict or a Tuple is made of, a Dict's sorted by name.

    So they stand in the order in which JAX flattens the dict or tuple that belongs to them.
    """
    parts = getattr(space, "spaces", space)
    if isinstance(parts, Mapping):
        return {name: parts[name] for name in sorted(parts)}
    return tuple(parts)


def space_leaves(space: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """The spaces in a Dict or Tuple that are neither, each with its path; in `children`'s order."""
    if not is_composite(space):
        return [(path, space)]
    inner = children(space)
    items = inner.items() if isinstance(inner, dict) else enumerate(inner)
    return [leaf for name, child in items for leaf in space_leaves(child, (*path, name))]


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


def legal_action(space: Any, action: PyTree, distribution: Any) -> PyTree:
    """The action that the environment is sent for an action that the policy sampled.

    The one place where the two part. A trajectory holds the sample, as it is the sample's
    log-probability that was recorded. First the distribution's own mapping, `legal`, where it has
    one: a Gaussian's sample goes through a tanh, a Beta's from (0, 1) to the box. Then the space's,
    in each part of a Dict or Tuple: what lies outside of a box is clipped, and in a box of integers
    rounded; a category counts from 0, where the integers of a space may begin elsewhere.
    """
    legal = getattr(distribution, "legal", None)
    return _into(space, action if legal is None else legal(action))


def _into(space: Any, action: PyTree) -> PyTree:
    if is_composite(space):
        inner = children(space)
        if isinstance(inner, dict):
            return {name: _into(child, action[name]) for name, child in inner.items()}
        return tuple(_into(*pair) for pair in zip(inner, action, strict=True))
    if is_box(space):
        legal = jnp.clip(action, space.low, space.high)
        whole = jnp.issubdtype(space_dtype(space), jnp.integer)
        return jnp.round(legal).astype(space_dtype(space)) if whole else legal
    if is_discrete(space) or num_categories(space) is not None:
        return action + getattr(space, "start", 0)  # Gymnasium's may begin elsewhere than at 0
    return action


def action_mask(observation: PyTree) -> PyTree | None:
    """What an observation says of legal actions: its part `"action_mask"`, or `None`.

    True where an action is legal. It is part of what the policy sees, so it is recorded, replayed
    and bootstrapped with all else. A dict further inside may hold it, as where a wrapper has put
    the environment's observation beside others.
    """
    if isinstance(observation, Mapping):
        if ACTION_MASK in observation:
            return observation[ACTION_MASK]
        parts = list(observation.values())
    elif isinstance(observation, tuple | list):
        parts = list(observation)
    else:
        return None
    return next((mask for part in parts if (mask := action_mask(part)) is not None), None)


def one_hot(observation: Any, num_categories: int) -> Float[Array, " num_categories"]:
    """Integers as vectors: state 7 is not seven times state 1."""
    return (jnp.arange(num_categories) == observation).astype(jnp.float32)


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
    """`children` of a dict or a tuple of spaces, else `None`."""
    return children(space) if is_composite(space) else None


def space_dtype(space: Any) -> Any:
    """What it declares, or float32; as JAX has it, which is 32 bits wide by default."""
    return jax.dtypes.canonicalize_dtype(getattr(space, "dtype", jnp.float32))
