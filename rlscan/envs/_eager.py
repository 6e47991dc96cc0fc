"""`jitted`: methods of an environment that are compiled when they are called by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax

from .._core.program import is_outermost
from .._core.types import PyTree


def jitted(method: Callable[..., PyTree], env: Any, *arguments: PyTree) -> PyTree:
    """Call `method(env, *arguments)`, jitted unless a caller compiles it.

    The environment must be hashable apart from its arrays. A function that steps it in Python then
    compiles a step once, instead of each operation of each step.
    """
    if not is_outermost():
        return method(env, *arguments)
    arrays, rest = eqx.partition(env, eqx.is_array)
    return _call(method, rest, arrays, *arguments)


@partial(jax.jit, static_argnums=(0, 1))
def _call(method: Callable[..., PyTree], rest: Any, arrays: PyTree, *arguments: PyTree) -> PyTree:
    return method(eqx.combine(arrays, rest), *arguments)
