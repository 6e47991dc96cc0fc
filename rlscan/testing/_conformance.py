"""`ConformanceError`, and the helpers that all checks share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class ConformanceError(AssertionError):
    """A failed check: what was required, what was found, and what to look at.

    It is an `AssertionError`, so pytest and unittest report a failed check as a failed test.
    """


def require(condition: Any, required: str, got: Any, edit: str) -> None:
    """Raise `ConformanceError` unless the condition holds."""
    if not bool(condition):
        raise ConformanceError(f"{required}; got {got}. {edit}")


def require_close(what: str, got: Any, wanted: Any, edit: str, *, tolerance: float = 1e-5) -> None:
    """Require |got − wanted| ≤ tolerance · max(1, |wanted|) for every entry.

    The error names the entry that is furthest off. Infinities must be equal, and NaN is close to
    nothing.
    """
    got, wanted = np.asarray(got), np.asarray(wanted)
    shapes = f"{what} must have the shape {wanted.shape}"
    require(got.shape == wanted.shape, shapes, got.shape, edit)
    if got.size == 0:
        return
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - wanted) / np.maximum(1, np.abs(wanted))
    error = np.where(got == wanted, 0.0, error)  # ∞ − ∞ is NaN
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(error.argmax(), error.shape)
    at = f" at {list(map(int, worst))}" if worst else ""
    require(
        error[worst] <= tolerance,
        f"{what} must be {wanted[worst]:.6g}{at}, to {tolerance:g}",
        f"{got[worst]:.6g}",
        edit,
    )


@eqx.filter_jit
def apply(fn: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call `fn(*args, **kwargs)` under `jit`, compiled once for all the checks that call it.

    Python numbers stay static, because `num_steps` and `num_envs` determine shapes.
    """
    return fn(*args, **kwargs)


def plain(tree: Any) -> Any:
    """The arrays of a pytree, with typed keys replaced by their key data."""

    def key_data(x: Any) -> Any:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(key_data, eqx.filter(tree, eqx.is_array))
