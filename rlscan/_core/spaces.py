"""Spaces, read by their attributes, so that gymnax's, Gymnasium's and a user's own all work."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import flatten_one_level_with_keys
from jaxtyping import Array, Float

from .types import PyTree

ACTION_MASK = "action_mask"
"""The key of an observation under which an environment reports the legal actions."""


class Field(int):
    """The index of a field in a NamedTuple; as a string it is the field's name."""

    name: str

    def __new__(cls, index: int, name: str = "") -> "Field":
        field = super().__new__(cls, index)
        field.name = name
        return field

    def __str__(self) -> str:
        return self.name


Path = tuple[str | int, ...]  # an index into a NamedTuple is a `Field`


@dataclasses.dataclass(frozen=True)
class Box:
    """A space of arrays of one shape and dtype, between two bounds."""

    low: Any
    """The lower bound, a number or an array of the shape; −∞ is none."""
    high: Any
    """The upper bound, likewise; ∞ is none."""
    shape: tuple[int, ...] = ()
    """The shape of an element."""
    dtype: Any = jnp.float32
    """The dtype of an element. A `uint8` or a `bool` takes a byte in a trajectory."""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The n integers from `start` on."""

    n: int
    """The number of integers."""
    start: int = 0
    """The first one."""
    dtype: Any = jnp.int32
    """The dtype of an element."""

    shape: ClassVar[tuple[int, ...]] = ()
    """The shape of an element: it is one number."""


@dataclasses.dataclass(frozen=True)
class Nested:
    """A dict or a tuple of spaces."""

    spaces: dict[str, Any] | tuple[Any, ...]


# Kinds of spaces.


def is_discrete(space: Any) -> bool:
    """Whether the space is one of n integers.

    Gymnasium's MultiBinary has an `n` as well, but it is a space of arrays.
    """
    return hasattr(space, "n") and getattr(space, "shape", ()) == ()


def is_box(space: Any) -> bool:
    """Whether the space holds arrays between `low` and `high`."""
    return all(hasattr(space, name) for name in ("low", "high", "shape"))


def is_composite(space: Any) -> bool:
    """Whether the space is a Dict or a Tuple of spaces, or a plain dict or tuple of them."""
    if is_box(space) or is_discrete(space):  # either may be a named tuple
        return False
    return isinstance(getattr(space, "spaces", space), Mapping | tuple | list)


def num_categories(space: Any) -> np.ndarray | None:
    """The number of values of each integer in a MultiDiscrete or MultiBinary, in its shape.

    `None` for any other space.
    """
    if hasattr(space, "nvec"):
        return constant(space, "nvec", np.int64)
    if hasattr(space, "n") and not is_discrete(space):
        return np.full(space.shape, 2)
    return None


def space_dtype(space: Any) -> Any:
    """The dtype that the space declares, or float32; 32 bits wide unless JAX allows 64."""
    return jax.dtypes.canonicalize_dtype(getattr(space, "dtype", jnp.float32))


def bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """`(low, high)` of a box as float32 arrays of its shape; ±inf for a missing bound.

    gymnax writes a missing bound as the largest float, which would overflow in a rescaling.
    """
    largest = np.finfo(np.float32).max
    sides = [
        np.broadcast_to(constant(space, name, np.float32), space.shape) for name in ("low", "high")
    ]
    low, high = (np.where(np.abs(s) >= largest, np.copysign(np.inf, s), s) for s in sides)
    return low, high


def constant(space: Any, name: str, dtype: Any = None) -> np.ndarray:
    """An attribute of a space in NumPy, for what is built on its value.

    **Raises:** `TypeError` if the value is unknown, because it is traced.
    """
    value = getattr(space, name)
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name!r} of a {type(space).__name__} must be a constant, because networks and "
            f"wrappers are built on its value, got a traced {value.dtype}{list(value.shape)}, "
            "which depends on an argument of jit or vmap, such as a parameter of the environment; "
            "build the policy outside, for an environment whose parameters are numbers, and pass "
            "it in"
        )
    return np.asarray(value, dtype)


# Trees of spaces.


def children(space: Any) -> dict[str, Any] | tuple[Any, ...]:
    """The spaces inside a Dict or a Tuple; those of a Dict are sorted by name.

    This is the order in which JAX flattens an element of the space. A NamedTuple remains one.
    """
    parts = getattr(space, "spaces", space)
    if isinstance(parts, Mapping):
        return {name: parts[name] for name in sorted(parts)}
    return parts if _is_named_tuple(parts) else tuple(parts)


def _is_named_tuple(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_fields")


def is_mask(path: Path) -> bool:
    """Whether a path leads to an action mask, or to a part of one."""
    return ACTION_MASK in map(str, path)


def parts_of(space: Any) -> dict[str, Any] | tuple[Any, ...] | None:
    """`children` of a Dict or a Tuple, `None` for any other space."""
    return children(space) if is_composite(space) else None


class SpaceMismatch(ValueError):
    """A pytree lacks the structure of its space."""

    def __init__(self, path: Path, wanted: str, got: Any):
        """**Arguments:**

        - `path`: the names and indices that lead to the mismatch.
        - `wanted`: what belongs there, such as `a tuple of 2 (Tuple)`.
        - `got`: what is there.
        """
        self.path, self.wanted, self.got = path, wanted, got
        place = "".join(f"[{name!r}]" for name in path)
        found = f"a {type(got).__name__}"
        if isinstance(got, Mapping):
            found = f"a dict with {sorted(got)}"
        elif isinstance(got, tuple | list):
            found = f"a tuple of {len(got)}"
        super().__init__(
            f"a value of this space must be {wanted}{place and f' at {place}'}, got {found}; "
            "return the structure that the space declares"
        )


def map_space(
    f: Callable[..., Any], space: Any, *trees: PyTree, allow_extra: bool = False
) -> PyTree:
    """Call `f(path, leaf, *parts)` for each leaf of a space, like `jax.tree.map`.

    A leaf is any space but a Dict or a Tuple. Leaves are visited in the order in which JAX flattens
    an element of the space.

    **Arguments:**

    - `f`: takes the names and indices that lead to the leaf, the leaf, and the part of each tree
        that belongs to it.
    - `space`: a space, with any nesting.
    - `trees`: elements of the space, or pytrees that have its dicts and tuples.
    - `allow_extra`: whether dicts may have entries that the space does not declare. They are
        returned as the first tree has them.

    **Returns:** the results, in dicts and tuples as the space has them. A tuple becomes a
    NamedTuple if the first tree has one there; without trees, if the space has one.

    **Raises:** `SpaceMismatch`, a `ValueError`, if a tree lacks the structure of the space.
    """
    return _map_space(f, (), space, trees, allow_extra)


def _map_space(
    f: Callable[..., Any], path: Path, space: Any, trees: tuple[PyTree, ...], allow_extra: bool
) -> PyTree:
    if not is_composite(space):
        return f(path, space, *trees)
    parts = children(space)
    for tree in trees:
        _check_structure(path, parts, tree, allow_extra)

    def inside(name: str | int, part: Any) -> PyTree:
        return _map_space(f, (*path, name), part, tuple(t[name] for t in trees), allow_extra)

    if isinstance(parts, dict):
        extra = {name: x for name, x in trees[0].items() if name not in parts} if trees else {}
        return {name: inside(name, part) for name, part in parts.items()} | extra
    indices = range(len(parts))
    if _is_named_tuple(parts):
        indices = map(Field, indices, parts._fields)  # pyright: ignore[reportAttributeAccessIssue]
    results = [inside(i, part) for i, part in zip(indices, parts, strict=True)]
    like: Any = trees[0] if trees else parts
    return type(like)(*results) if _is_named_tuple(like) else tuple(results)


def _check_structure(path: Path, parts: dict | tuple, tree: PyTree, allow_extra: bool) -> None:
    if isinstance(parts, dict):
        fits = isinstance(tree, Mapping) and parts.keys() <= tree.keys()
        fits = fits and (allow_extra or len(parts) == len(tree))
        wanted = f"a dict with {list(parts)} (Dict)"
    else:
        fits = isinstance(tree, tuple | list) and len(parts) == len(tree)
        wanted = f"a tuple of {len(parts)} (Tuple)"
    if not fits:
        raise SpaceMismatch(path, wanted, tree)


def space_leaves(space: Any) -> list[tuple[Path, Any]]:
    """The path and the space of each leaf, in the order of `map_space`."""
    leaves: list[tuple[Path, Any]] = []
    map_space(lambda path, leaf: leaves.append((path, leaf)), space)
    return leaves


# Elements of spaces.


def space_shapes(space: Any) -> PyTree:
    """The shape and dtype of each leaf of an element of a space.

    **Raises:** `ValueError` for a space of another kind than rlscan knows.
    """
    return map_space(_leaf_shape, space)


def _leaf_shape(_: Path, space: Any) -> jax.ShapeDtypeStruct:
    if is_discrete(space):
        return jax.ShapeDtypeStruct((), _integer_dtype(space))
    if (categories := num_categories(space)) is not None:
        return jax.ShapeDtypeStruct(categories.shape, _integer_dtype(space))
    if is_box(space):
        return jax.ShapeDtypeStruct(tuple(map(int, space.shape)), space_dtype(space))
    raise ValueError(
        "a space must have the attributes n, nvec, spaces, or low, high and shape, as those of "
        f"gymnax and Gymnasium have, got {space!r}"
    )


def _integer_dtype(space: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(getattr(space, "dtype", None) or jnp.int32)


def legal_action(space: Any, action: PyTree, distribution: Any) -> PyTree:
    """The action that the environment receives for an action that the policy sampled.

    This is the one place where the two differ. A trajectory holds the sample, because its
    log-probability is the one that was recorded. The distribution's own mapping `legal` comes
    first, if it has one: a Gaussian's sample goes through a tanh, a Beta's from (0, 1) to the box.
    The space's mapping follows, for each leaf of a Dict or Tuple:

    - a Box clips, and rounds if it is a box of integers;
    - a Discrete or a MultiDiscrete adds its `start`, because samples count from 0.
    """
    legal = getattr(distribution, "legal", None)
    return map_space(_to_space, space, action if legal is None else legal(action))


def _to_space(_: Path, space: Any, action: Any) -> Any:
    if is_box(space):
        low, high = space.low, space.high
        if jnp.issubdtype(dtype := jnp.result_type(action), jnp.floating):
            low, high = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
        legal = jnp.clip(action, low, high)
        whole = jnp.issubdtype(space_dtype(space), jnp.integer)
        return jnp.round(legal).astype(space_dtype(space)) if whole else legal
    if is_discrete(space) or num_categories(space) is not None:
        return action + getattr(space, "start", 0)  # Gymnasium's need not start at 0
    return action


def action_mask(observation: PyTree) -> PyTree | None:
    """The mask of legal actions in an observation, its entry `"action_mask"`; `None` without one.

    True marks a legal action. The mask is part of the observation, so it is recorded, replayed and
    bootstrapped like the rest. It is the entry of a dict, or the field of a NamedTuple, an
    `eqx.Module` or another dataclass. It may be nested, as when a wrapper adds entries beside the
    environment's observation.
    """
    if isinstance(observation, Mapping) and ACTION_MASK in observation:
        return observation[ACTION_MASK]
    if hasattr(observation, ACTION_MASK):
        return getattr(observation, ACTION_MASK)
    try:
        parts, _ = flatten_one_level_with_keys(observation)
    except ValueError:  # a leaf
        return None
    return next((mask for _, part in parts if (mask := action_mask(part)) is not None), None)


def one_hot(observation: Any, num_categories: int) -> Float[Array, " num_categories"]:
    """Encode an integer as a one-hot vector, because categories have no order."""
    return (jnp.arange(num_categories) == observation).astype(jnp.float32)
