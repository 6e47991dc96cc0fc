"""Arrays in pytrees, beside functions and flags that stay as they are."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from .types import PyTree


def map_arrays(f: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """`jax.tree.map` over the arrays of `tree`; its other leaves are returned as they are."""

    def one(leaf: Any, *rest: Any) -> Any:
        return f(leaf, *rest) if eqx.is_array(leaf) else leaf

    return jax.tree.map(one, tree, *others)


def where(condition: Bool[Array, "*N"], on_true: PyTree, on_false: PyTree) -> PyTree:
    """`jnp.where` on the arrays, with the condition's axes in front of each array's own."""

    def select(x: Any, y: Any) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(condition.ndim, jnp.ndim(y))), x, y)

    return unused(map_arrays(select, unused(on_true), unused(on_false)))


def unused(tree: PyTree) -> PyTree:
    """The same, with its keys as if they were new: moving a key about is not drawing from it.

    JAX's checker of key reuse takes indexing, selecting and storing for draws.
    """
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else x, tree)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed keys."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_shape(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def strong(tree: PyTree) -> PyTree:
    """Numbers as arrays, and no weak types (gymnax's `time=0`): they would retrace a rollout."""
    arrays = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, tree)
    return in_dtypes_of(arrays, arrays)


def in_dtypes_of(like: PyTree, tree: PyTree) -> PyTree:
    """The arrays of a tree in the dtypes of another's."""

    def convert(x: Array, wanted: Any) -> Array:
        return x if is_key(x) else lax.convert_element_type(x, wanted.dtype)

    return map_arrays(convert, tree, like)
