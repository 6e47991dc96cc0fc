"""`filter_scan`: `lax.scan` over any pytree, with modules and functions among its leaves."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import (
    GetAttrKey,
    KeyPath,
    flatten_one_level_with_keys,
    keystr,
    tree_flatten_with_path,
)
from jaxtyping import Array, Integer

Carry = TypeVar("Carry")
X = TypeVar("X")
Y = TypeVar("Y")


def filter_scan(
    f: Callable[[Carry, X], tuple[Carry, Y]],
    init: Carry,
    xs: X = None,
    length: int | None = None,
    *,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Carry, Y]:
    """`jax.lax.scan` for any pytree, Equinox modules and functions included.

    Computes `carryₜ₊₁, yₜ = f(carryₜ, xₜ)` for t = 0 … T−1. Every pytree is split into two parts.
    Its arrays cross the scan boundary. Everything else (functions, Python numbers, flags such as
    `eqx.nn.Dropout.inference`) stays Python, outside the traced loop: no flag becomes a tracer,
    no Python float looks like a parameter (equinox#987, #772, #681). Therefore no step may change
    the non-array part of the carry.

    Use it inside `eqx.filter_jit`. Outside, it compiles again in each call, like `lax.scan`.

    **Arguments:**

    - `f`: the body, `(carry, x) -> (carry, y)`.
    - `init`: the carry at t = 0; any pytree. NumPy arrays count as arrays, Python numbers do not.
    - `xs`: any pytree. Its arrays are sliced along their first axis, `[T, …]`; the rest is passed
        to each step unchanged. A module with stacked arrays is a single module in each step.
    - `length`: T; needed only if `xs` holds no array.
    - `reverse`: run t = T−1 … 0; `xs` and `ys` keep their order.
    - `unroll`: the number of steps in one iteration of the compiled loop.

    **Returns:** `(carry, ys)`: the last carry, and the outputs, with arrays stacked to `[T, …]` and
    the rest unstacked.

    **Raises:** `TypeError`, with the leaf's name, if `f` changes the non-array part of the carry,
    or the shape or dtype of an array in it; `ValueError`, with the leaf's name, if an array of `xs`
    has no first axis or differs in length from the others.

    **Example:** a carry that holds a model with active dropout, and the key that it uses.

    ```python
    import equinox as eqx, jax, jax.numpy as jnp, rlscan

    def scan_with_dropout(model, initial_state, inputs, *, key):
        def step(carry, x):
            model, _, key = carry
            key, dropout_key = jax.random.split(key)
            return (model, model(x, key=dropout_key), key), None

        carry = (model, initial_state, key)
        (_, output, _), _ = rlscan.filter_scan(step, carry, inputs)
        return output

    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    model = eqx.nn.Sequential([linear, eqx.nn.Dropout(0.5)])
    output = scan_with_dropout(model, jnp.zeros(2), jnp.ones((10, 3)), key=rlscan.key(1))
    ```
    """
    init_arrays, init_rest = split_arrays(init)
    xs_arrays, xs_rest = split_arrays(xs)
    _check_lengths(xs, length)
    y_rest: Rest | None = None

    def body(carry_arrays: list, x_arrays: list) -> tuple[list, list]:
        nonlocal y_rest
        carry = merge_arrays(carry_arrays, init_rest)
        result = f(carry, merge_arrays(x_arrays, xs_rest))
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                "the body of filter_scan must return (carry, y), "
                f"got {type(result).__name__}; write `return carry, None` if there is no output"
            )
        new_carry, y = result
        # Compared with a carry that is merged again, as `f` may have changed a dict or list of the
        # first one in place.
        check_same_carry(merge_arrays(carry_arrays, init_rest), new_carry)
        new_arrays, _ = split_arrays(new_carry)
        y_arrays, y_rest = split_arrays(y)
        return new_arrays, y_arrays

    carry_arrays, y_arrays = jax.lax.scan(
        body, init_arrays, xs_arrays, length, reverse=reverse, unroll=unroll
    )
    assert y_rest is not None  # `lax.scan` traces its body at least once
    return merge_arrays(carry_arrays, init_rest), merge_arrays(y_arrays, y_rest)


class Rest(NamedTuple):
    """A pytree without its arrays."""

    structure: Any  # a PyTreeDef
    leaves: list[Any]  # `_HOLE` in the place of each array


_HOLE = object()


def split_arrays(tree: Any) -> tuple[list[Any], Rest]:
    """Split a pytree into its arrays and the rest; `merge_arrays` is the inverse.

    `eqx.partition` would build a tree with `None` in the place of each array. A distrax
    distribution cannot be built with such leaves (equinox#269), so the arrays are a list instead.
    """
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf for leaf in leaves if eqx.is_array(leaf)]
    return arrays, Rest(structure, [_HOLE if eqx.is_array(leaf) else leaf for leaf in leaves])


def merge_arrays(arrays: list[Any], rest: Rest) -> Any:
    """Rebuild the pytree that `split_arrays` took apart, or the same one with other arrays."""
    arrays_in_order = iter(arrays)
    leaves = [next(arrays_in_order) if leaf is _HOLE else leaf for leaf in rest.leaves]
    return jax.tree.unflatten(rest.structure, leaves)


# Checks. `lax.scan` would raise some of these errors as well, but without the leaf's name.


def _check_lengths(xs: Any, length: int | None) -> None:
    first: tuple[str, int] | None = None if length is None else ("length", length)
    for path, leaf in tree_flatten_with_path(xs)[0]:
        if not eqx.is_array(leaf):
            continue
        name = f"xs{keystr(path)}"
        if leaf.ndim == 0:
            raise ValueError(
                f"{name} has no first axis to scan over, it is a scalar {leaf.dtype}; "
                "close over it in the body, or repeat it along a first axis"
            )
        if first is not None and leaf.shape[0] != first[1]:
            raise ValueError(
                f"{name} has length {leaf.shape[0]}, but {first[0]} is {first[1]}; "
                "all arrays that are scanned over must have the same length"
            )
        first = first or (f"the length of {name}", leaf.shape[0])
    if first is None:
        raise ValueError("xs holds no array to scan over; set the number of steps with length=…")


def check_same_carry(
    old: Any,
    new: Any,
    *,
    name: str = "carry",
    where: str = "inside filter_scan",
    first: str = "`init`",
) -> None:
    """Raise `TypeError` if a step changed more of the carry than the values of its arrays.

    **Arguments:**

    - `old`, `new`: the carry before and after the step.
    - `name`, `where`, `first`: what messages call the carry, the step, and the first carry.
    """
    old_leaves, old_structure = tree_flatten_with_path(old)
    new_leaves, new_structure = tree_flatten_with_path(new)
    if old_structure != new_structure:
        path, was, became = first_structural_difference(old, new, ())
        raise TypeError(
            f"the structure of the {name} changed {where}, at {name}{keystr(path)}: "
            f"it came in as {was} and went out as {became}; "
            f"return a {name} with the structure of {first}, in which a static field keeps its "
            "value"
        )
    for (path, was), (_, became) in zip(old_leaves, new_leaves, strict=True):
        _check_same_leaf(f"{name}{keystr(path)} changed {where}", was, became)


def _check_same_leaf(changed: str, was: Any, became: Any) -> None:
    if eqx.is_array(was) and eqx.is_array(became):
        same_dtype = _dtype(was) == _dtype(became)
        # `lax.scan` widens a weakly typed scalar such as `jnp.asarray(0)` by itself if it can, and
        # traces again. One that it cannot widen arrives here a second time, strongly typed.
        widened = getattr(was, "weak_type", False)
        if was.shape != became.shape or not (same_dtype or widened):
            raise TypeError(
                f"{changed}: it came in as {describe(was)} and went out "
                f"as {describe(became)}; cast or reshape one of them"
            )
    elif eqx.is_array(was) or eqx.is_array(became) or not same_value(was, became):
        raise TypeError(
            f"{changed}: it came in as {describe(was)} and went out as "
            f"{describe(became)}. Only arrays may change in the loop; {_remedy(was, became)}"
        )


def _dtype(array: Any) -> Any:
    """The dtype of an array inside JAX, which turns NumPy's float64 into float32."""
    if isinstance(array, np.ndarray | np.generic):
        return jax.dtypes.canonicalize_dtype(array.dtype)
    return array.dtype


def _remedy(was: Any, became: Any) -> str:
    if isinstance(was, bool) and isinstance(became, bool):
        return (
            "set a flag before the loop (eqx.nn.inference_mode for `inference`), "
            "or make it an array and branch with jnp.where"
        )
    if isinstance(was, bool | int | float | complex):
        return f"start from an array: write jnp.asarray({was!r}) in `init`"
    if callable(was) and callable(became):
        return (
            "a function that is defined in each step is a different one each time: "
            "update the module with eqx.tree_at, or define the function outside the loop"
        )
    if eqx.is_array(was):
        return "return an array here, such as jnp.asarray(…)"
    return "leave it unchanged, or make it an array in `init`"


def same_value(was: Any, became: Any) -> bool:
    """Whether two leaves have the same type and are equal."""
    if was is became:
        return True
    if type(was) is not type(became):
        return False
    try:
        return bool(was == became)
    except Exception:  # a comparison that fails counts as a difference
        return False


def describe(leaf: Any) -> str:
    """A leaf in at most 80 characters and its type, for a message."""
    if eqx.is_array(leaf):
        return f"the array {leaf.dtype}{list(leaf.shape)}"
    text = repr(leaf)
    # Both ends, because the repr of a function has its name and address at the end.
    text = text if len(text) <= 80 else f"{text[:39]}…{text[-40:]}"
    return f"{text} ({type(leaf).__name__})"


def first_structural_difference(old: Any, new: Any, path: KeyPath) -> tuple[KeyPath, str, str]:
    """Find the first difference between two pytrees of unequal structure.

    **Returns:** its path, and a description of what each tree has there.
    """
    if type(old) is not type(new):
        return path, describe(old), describe(new)
    # Two trees of one type but unequal structure are not leaves, so both can be flattened.
    (old_level, old_data), (new_level, new_data) = map(flatten_one_level_with_keys, (old, new))
    old_children, new_children = dict(old_level), dict(new_level)
    if old_children.keys() != new_children.keys():
        names = [[keystr((k,)) for k in level] for level in (old_children, new_children)]
        kind = type(old).__name__
        return path, f"{kind} with {names[0]}", f"{kind} with {names[1]}"
    for child, old_child in old_children.items():
        new_child = new_children[child]
        if jax.tree.structure(old_child) != jax.tree.structure(new_child):
            return first_structural_difference(old_child, new_child, (*path, child))
    static = [f.name for f in dataclasses.fields(old)] if dataclasses.is_dataclass(old) else []
    for name in static:
        was, became = getattr(old, name, None), getattr(new, name, None)
        if GetAttrKey(name) not in old_children and not same_value(was, became):
            return (*path, GetAttrKey(name)), describe(was), describe(became)
    return path, f"{type(old).__name__} with {old_data!r}", f"… with {new_data!r}"


def filter_repeat(
    f: Callable[[Carry], tuple[Carry, Y]],
    init: Carry,
    times: int | Integer[Array, ""],
    *,
    most: int,
) -> tuple[Carry, Y]:
    """`filter_scan` without inputs, with a number of steps that may be traced.

    **Arguments:**

    - `f`: the body, `carry -> (carry, y)`; it is traced once.
    - `init`: the initial carry.
    - `times`: the number of steps, 0 to `most`; not mapped over.
    - `most`: the length of the outputs.

    **Returns:** `(carry, ys)`, with arrays of the outputs stacked to `[most, …]`; they are zero
    from index `times` on.

    **Raises:** `TypeError` like `filter_scan`.
    """
    arrays, rest = split_arrays(init)
    y_rest: Rest | None = None

    @jax.jit  # so that `eval_shape` and the loop share one trace
    def once(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        nonlocal y_rest
        carry, y = f(merge_arrays(arrays, rest))
        check_same_carry(merge_arrays(arrays, rest), carry)
        y_arrays, y_rest = split_arrays(y)
        return split_arrays(carry)[0], y_arrays

    def step(i: Array, loop: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        arrays, ys = loop
        arrays, y = once(arrays)
        return arrays, [
            lax.dynamic_update_index_in_dim(*both, i, 0) for both in zip(ys, y, strict=True)
        ]

    _, shapes = jax.eval_shape(once, arrays)
    # Two at least: XLA compiles the body in another way around a store into an array of one.
    ys = [jnp.zeros((max(most, 2), *y.shape), y.dtype) for y in shapes]
    arrays, ys = lax.fori_loop(0, times, step, (arrays, ys))
    assert y_rest is not None  # set by the trace
    return merge_arrays(arrays, rest), merge_arrays([y[:most] for y in ys], y_rest)
