"""`nan_or`: NaN, unless JAX is told to raise at it."""

import math

import jax


def nan_or(other: float) -> float:
    """NaN; or `other` under `jax_debug_nans`, which raises at any NaN that a program returns.

    For a number that there is none of, and for one that must not be used. The switch is read when a
    program is traced, so it must be set before.
    """
    is_raised_at = jax.config.jax_debug_nans  # pyright: ignore[reportAttributeAccessIssue]
    return other if is_raised_at else math.nan
