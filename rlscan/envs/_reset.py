"""`reset_where`: an auto-reset that draws a reset only in steps in which an episode ends."""

from collections.abc import Callable

import jax.numpy as jnp
from equinox.internal import unvmap_any
from jax import lax
from jaxtyping import Array, Bool

from .._core.tree import as_strong_arrays, cast_like, where
from .._core.types import PyTree


def reset_where(
    done: bool | Bool[Array, ""], reset: Callable[[], PyTree], stepped: PyTree
) -> PyTree:
    """Select `reset()` if an episode is done, else `stepped`; for environments with auto-reset.

    It is written for one environment. When it is mapped over environments, and over seeds, `reset`
    is computed only in steps in which at least one of them is done, and then for all of them; on a
    mesh, for those of the same device. A plain `where` would draw a reset for every environment in
    every step, which is measurably slower (see the `levers` benchmark).

    Among many environments one is done in nearly every step. If a reset takes long, compute a pool
    of starts once, keep it in the environment as arrays, and let `reset` pick one by its key.

    **Arguments:**

    - `done`: whether the episode has just ended.
    - `reset`: draws `(observation, state)`, with the structure and the shapes of `stepped`. JAX
        allows no side effects there but those of `jax.debug`.
    - `stepped`: `(observation, state)` after the step.

    **Returns:** `(observation, state)` to go on from, with the dtypes of `stepped`.
    """

    done, stepped = jnp.asarray(done, bool), as_strong_arrays(stepped)

    def select() -> PyTree:
        return where(done, cast_like(stepped, as_strong_arrays(reset())), stepped)

    # `unvmap_any` is the same for all environments, so vmap keeps the branch instead of computing
    # both sides.
    return lax.cond(unvmap_any(done), select, lambda: stepped)
