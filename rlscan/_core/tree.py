"""Operations on the arrays of a pytree; its functions and flags stay as they are."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from .types import PyTree


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed keys."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_shape(leaf: Any) -> bool:
    """Whether a leaf is an array, or a `jax.ShapeDtypeStruct` in the place of one."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def map_arrays(f: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """`jax.tree.map` over the arrays of `tree`; its other leaves are returned as they are."""

    def one(leaf: Any, *rest: Any) -> Any:
        return f(leaf, *rest) if eqx.is_array(leaf) else leaf

    return jax.tree.map(one, tree, *others)


def where(condition: Bool[Array, "*N"], on_true: PyTree, on_false: PyTree) -> PyTree:
    """`jnp.where` on the arrays, with the condition's axes in front of each array's own."""

    def select(x: Any, y: Any) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(condition.ndim, jnp.ndim(y))), x, y)

    return clone_keys(map_arrays(select, clone_keys(on_true), clone_keys(on_false)))


def clone_keys(tree: PyTree) -> PyTree:
    """Mark the keys of a tree as unused for JAX's key-reuse checker; their bits are the same.

    The checker counts indexing, selecting and storing a key as a use of it. Moving keys about
    draws nothing, so the code that moves them clones them.
    """
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else x, tree)


def as_strong_arrays(tree: PyTree) -> PyTree:
    """Turn numbers into arrays, and weak types into strong ones.

    A weakly typed entry of a state, such as gymnax's `time=0`, becomes strong in the first step,
    and the rollout would be traced again for it.
    """
    arrays = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, tree)
    return cast_like(arrays, arrays)


def cast_like(like: PyTree, tree: PyTree) -> PyTree:
    """Cast the arrays of `tree` to the dtypes of the arrays of `like`."""

    def cast(x: Array, wanted: Any) -> Array:
        return x if is_key(x) else lax.convert_element_type(x, wanted.dtype)

    return map_arrays(cast, tree, like)


def wide(dtype: Any) -> Any:
    """The floating-point dtype for sums of such numbers: float32, or a wider one if they are."""
    with jax.numpy_dtype_promotion("standard"):  # it is asked for here, so no setting forbids it
        return jnp.promote_types(dtype, jnp.float32)


class ArrayFunction:
    """A function of pytrees, called with their arrays alone.

    It is for transformations that take nothing but arrays, such as `jax.jit(…).lower` and
    `jax.shard_map`:

    ```python
    function = ArrayFunction(f, arguments)
    result = function.merge(transform(function)(*function.arrays))
    ```
    """

    arrays: tuple[PyTree, ...]
    """The arguments, with `None` in the place of each leaf that is not an array."""

    def __init__(
        self,
        f: Callable[..., PyTree],
        arguments: tuple[PyTree, ...],
        is_array: Callable[[Any], bool] = eqx.is_array,
    ):
        """**Arguments:**

        - `f`: a function of pytrees.
        - `arguments`: its arguments. Their other leaves are constants.
        - `is_array`: which leaves of the arguments count as arrays, such as `is_shape`.
        """
        self.arrays, self._rest = eqx.partition(arguments, is_array)
        self.__name__ = getattr(f, "__name__", type(f).__name__)  # for JAX's errors
        self._f = f
        self._result_rest: PyTree = None

    def __call__(self, *arrays: PyTree) -> PyTree:
        """The arrays of the result. The rest of it is kept for `merge`."""
        result = self._f(*eqx.combine(arrays, self._rest))
        arrays_of_result, self._result_rest = eqx.partition(result, eqx.is_array)
        return arrays_of_result

    def merge(self, arrays: PyTree) -> PyTree:
        """The result of `f`, from its arrays. The function must have been traced before."""
        return eqx.combine(arrays, self._result_rest)


def flatten_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dicts by their dotted keys. An empty dict counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_group = isinstance(value, Mapping) and value
        flat |= flatten_keys(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return flat


def tree_bytes(tree: PyTree) -> int:
    """The total size in bytes of the arrays of a tree, or of `jax.ShapeDtypeStruct`s in it."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if is_shape(x))
