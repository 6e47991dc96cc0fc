"""The returns of the episodes that finished last, over all updates."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._core.nan import nan_or

NUM_RETURNS = 100


class RecentReturns(eqx.Module):
    """The returns of the last 100 episodes that finished."""

    values: Float[Array, "*R 100"]  # the newest first
    count: Int[Array, "*R"]  # how many there are yet, 0 to 100


def no_returns() -> RecentReturns:
    return RecentReturns(jnp.zeros(NUM_RETURNS), jnp.zeros((), jnp.int32))


def add_returns(
    recent: RecentReturns, ended: Bool[Array, "T N"], per_return: Float[Array, "T N"]
) -> RecentReturns:
    """Put the returns of the steps that ended an episode in front, in order of time.

    Those of one step are in order of the environments.
    """
    # A search in the count so far, instead of a scatter of all steps.
    so_far = jnp.cumsum(ended.ravel(), dtype=jnp.int32)
    age, num_new = jnp.arange(NUM_RETURNS, dtype=jnp.int32), so_far[-1]
    at = jnp.searchsorted(so_far, num_new - age, method="scan_unrolled")
    new, old = per_return.ravel()[at], recent.values[jnp.maximum(age - num_new, 0)]
    return RecentReturns(
        jnp.where(age < num_new, new, old), jnp.minimum(recent.count + num_new, NUM_RETURNS)
    )


def mean_return(recent: RecentReturns) -> Float[Array, ""]:
    """Their mean; NaN before the first episode has finished."""
    is_there = jnp.arange(NUM_RETURNS) < recent.count
    total = jnp.where(is_there, recent.values, 0).sum()
    mean = total / jnp.maximum(recent.count, 1).astype(jnp.float32)
    return jnp.where(recent.count > 0, mean, nan_or(0.0))
