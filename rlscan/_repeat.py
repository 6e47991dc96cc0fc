"""`filter_repeat`: a loop over any pytree, of which a number decides how often it runs."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Integer

from ._scan import Rest, check_same_carry, merge_arrays, split_arrays

Carry = TypeVar("Carry")
Y = TypeVar("Y")


def filter_repeat(
    f: Callable[[Carry], tuple[Carry, Y]],
    init: Carry,
    times: int | Integer[Array, ""],
    *,
    most: int,
) -> tuple[Carry, Y]:
    """`filter_scan` without inputs, for a number of steps that is known when the program runs.

    **Arguments:**

    - `f`: the body, `carry -> (carry, y)`; it is traced once.
    - `init`: the carry at first.
    - `times`: how often, 0 to `most`; not mapped over.
    - `most`: the length of the outputs.

    **Returns:** `(carry, ys)`, arrays of the outputs stacked to `[most, …]`: zeros from `times` on.

    **Raises:** as `filter_scan`.
    """
    arrays, rest = split_arrays(init)
    y_rest: Rest | None = None

    @jax.jit  # so that one trace serves for the shapes and for the loop
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
    ys = [jnp.zeros((most, *y.shape), y.dtype) for y in shapes]
    arrays, ys = lax.fori_loop(0, times, step, (arrays, ys))
    assert y_rest is not None  # it was traced
    return merge_arrays(arrays, rest), merge_arrays(ys, y_rest)
