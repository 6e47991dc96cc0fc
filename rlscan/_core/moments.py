"""Running moments: the count, mean and variance of samples, updated batch by batch."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .mesh import mean_over_devices, num_parts
from .tree import wide


class Sum(eqx.Module):
    """A running sum, in about twice the precision of its dtype.

    A float32 stops counting at 2²⁴, and a mean over 10⁸ samples no longer follows new batches. So
    the rounding error of each addition is kept and added with the next one.
    """

    value: Float[Array, "..."]
    lost: Float[Array, "..."]  # the rounding error: the sum is value + lost

    def plus(self, x: Float[Array, "..."]) -> "Sum":
        """Add by two-sum, exact for any order of sizes; only `x + lost` is rounded.

        Source: Knuth, *The Art of Computer Programming* 2, §4.2.2.
        """
        x = x + self.lost
        total = self.value + x
        kept = total - self.value
        return Sum(total, (self.value - (total - kept)) + (x - kept))


class Moments(eqx.Module):
    """The count, and for each element of an array the mean and the sum of squared deviations."""

    count: Sum  # samples, (); 0 before the first batch
    mean: Sum  # the shape of a sample
    squares: Sum  # Σ (x − mean)², the same shape

    @property
    def variance(self) -> Float[Array, "..."]:
        """Σ (x − mean)² / count; 0 before the first batch."""
        return self.squares.value / jnp.maximum(self.count.value, 1)


def no_moments(shape: tuple[int, ...], dtype: jnp.dtype | type = jnp.float32) -> Moments:
    """The moments of no samples yet, for samples of the given shape; at least float32."""
    dtype = wide(dtype)
    nothing = Sum(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    return Moments(Sum(jnp.zeros((), dtype), jnp.zeros((), dtype)), nothing, nothing)


def merge(moments: Moments, batch: Float[Array, "B ..."]) -> Moments:
    """Add B samples to the moments.

    With n samples before, b more, their mean m, and δ = m − mean:

        mean ← mean + δ b / (n + b)
        squares ← squares + Σ (x − m)² + δ² n b / (n + b)

    **Arguments:**

    - `moments`: those of n samples, from `no_moments` or `merge`.
    - `batch`: `[B, …]`; on a mesh each device adds its own B samples, b = B · devices. Deviations
        are taken from the mean so far (at first from a sample), so that a mean far from 0 costs
        the variance no digits.

    Source: Chan, Golub & LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances*, 1979, eq. 2.1.
    """
    n = moments.count.value
    b = jnp.asarray(batch.shape[0] * num_parts(), n.dtype)
    batch = batch.astype(n.dtype)
    origin = jnp.where(n > 0, moments.mean.value, mean_over_devices(batch[0]))
    deviation = batch - origin[None]
    mean = mean_over_devices(deviation.mean(axis=0))
    spread = mean_over_devices(jnp.square(deviation - mean[None]).mean(axis=0))

    delta = mean - moments.mean.lost
    share = b / (n + b)
    return Moments(
        count=moments.count.plus(b),
        mean=Sum(origin, moments.mean.lost).plus(delta * share),
        squares=moments.squares.plus(b * spread + jnp.square(delta) * (n * share)),
    )
