"""Spaces, read by their attributes: what is in them, and a draw from them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._error import ConformanceError


class Discrete(NamedTuple):
    """The integers 0 … n − 1."""

    n: int


class Box(NamedTuple):
    """Arrays of a shape, between two bounds."""

    low: Any
    high: Any
    shape: tuple[int, ...]


_LARGEST = float(np.finfo(np.float32).max)  # what gymnax writes for a bound that is missing


def sample(space: Any, key: Any) -> Any:
    """A uniform draw from a space, as gymnax's and Gymnasium's have it; ±1 for a missing bound."""
    parts = parts_of(space)
    if isinstance(parts, dict):
        keys = jax.random.split(key, len(parts))
        return {name: sample(part, k) for (name, part), k in zip(parts.items(), keys, strict=True)}
    if isinstance(parts, tuple):
        keys = jax.random.split(key, len(parts))
        return tuple(sample(part, k) for part, k in zip(parts, keys, strict=True))
    if _is_discrete(space):
        start = getattr(space, "start", 0)
        return jax.random.randint(key, (), start, start + space.n)
    if hasattr(space, "nvec"):  # Gymnasium's MultiDiscrete
        return jax.random.randint(key, np.shape(space.nvec), 0, jnp.asarray(space.nvec))
    if _is_box(space):
        low, high = (np.broadcast_to(np.asarray(s), space.shape) for s in (space.low, space.high))
        low = np.where(np.abs(low) >= _LARGEST, np.minimum(-1.0, high - 1), low)
        high = np.where(np.abs(high) >= _LARGEST, np.maximum(1.0, low + 1), high)
        draw = jax.random.uniform(key, space.shape, minval=low, maxval=high)
        return draw.astype(getattr(space, "dtype", draw.dtype))
    raise ConformanceError(
        f"a space must have the attributes n, nvec, spaces, or low, high and shape; got {space!r}. "
        "Give check_environment a sample_action(key) of your own"
    )


def complaint(space: Any, x: Any) -> str | None:
    """Why an element is not in a space; `None` where it is, or where the space is unknown."""
    parts = parts_of(space)
    if parts is not None:
        if isinstance(parts, dict) != isinstance(x, Mapping) or len(parts) != len(x):
            return f"has the structure {jax.tree.structure(x)}"
        names = parts if isinstance(parts, dict) else range(len(parts))
        found = ((name, complaint(parts[name], x[name])) for name in names)
        return next((f"in [{name!r}] {why}" for name, why in found if why), None)
    x = np.asarray(x)
    if _is_discrete(space):
        start = getattr(space, "start", 0)
        is_in = x.shape == () and start <= x < start + space.n and x % 1 == 0
        return None if is_in else f"is {x}, where the integers {start} … {start + space.n - 1} are"
    if _is_box(space):
        if x.shape != tuple(space.shape):
            return f"has the shape {x.shape}, where {tuple(space.shape)} is declared"
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        slack = 1e-5 * np.maximum(1, np.abs(x))  # a bound is rounded, and so is what reaches it
        outside = ~((x >= low - slack) & (x <= high + slack))  # NaN is outside
        return f"is {x[outside][0]}, outside of its box" if outside.any() else None
    return None


def parts_of(space: Any) -> dict | tuple | None:
    """The spaces that a space is made of, if it is a dict or a tuple of them."""
    if _is_discrete(space) or _is_box(space):
        return None  # a named tuple may be one of these
    inner = getattr(space, "spaces", space)
    if isinstance(inner, Mapping):
        return dict(inner)
    return tuple(inner) if isinstance(inner, tuple | list) else None


def _is_discrete(space: Any) -> bool:
    return hasattr(space, "n") and getattr(space, "shape", ()) == ()


def _is_box(space: Any) -> bool:
    return all(hasattr(space, name) for name in ("low", "high", "shape"))
