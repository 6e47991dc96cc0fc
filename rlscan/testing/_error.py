"""`ConformanceError`: what a check found, and the two ways in which checks raise it."""

from typing import Any

import numpy as np


class ConformanceError(AssertionError):
    """A check has failed: what was required, what was got, and what to look at.

    An `AssertionError`, so that pytest and unittest count a failed check as a failed test.
    """


def require(condition: Any, required: str, got: Any, edit: str) -> None:
    """Raises `ConformanceError` unless the condition holds."""
    if not bool(condition):
        raise ConformanceError(f"{required}; got {got}. {edit}")


def require_close(what: str, got: Any, wanted: Any, edit: str, *, tolerance: float = 1e-5) -> None:
    """|got − wanted| ≤ tolerance · max(1, |wanted|) in every place; else names the worst one.

    Infinities must be equal, and a NaN is close to nothing.
    """
    got, wanted = np.asarray(got), np.asarray(wanted)
    shapes = f"{what} must have the shape {wanted.shape}"
    require(got.shape == wanted.shape, shapes, got.shape, edit)
    if got.size == 0:
        return
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - wanted) / np.maximum(1, np.abs(wanted))
    error = np.where(got == wanted, 0.0, error)
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(error.argmax(), error.shape)
    at = f" at {list(map(int, worst))}" if worst else ""
    require(
        error[worst] <= tolerance,
        f"{what} must be {wanted[worst]:.6g}{at}, to {tolerance:g}",
        f"{got[worst]:.6g}",
        edit,
    )
