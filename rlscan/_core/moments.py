"""Running moments: how many samples were seen, their mean and variance, batch by batch."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .mesh import mean_over


class Sum(eqx.Module):
    """A running sum, in about twice the precision of its dtype.

    A float32 stops counting at 2²⁴, and a mean over 10⁸ samples no longer follows the batches that
    come. So what rounding takes from each addition is kept, and added with the next.
    """

    value: Float[Array, "..."]
    lost: Float[Array, "..."]  # to rounding: the sum is value + lost

    def plus(self, x: Float[Array, "..."]) -> "Sum":
        """By two-sum (Knuth, *The Art of Computer Programming* 2, §4.2.2), exact for any order of
        sizes; only `x + lost` is rounded."""
        x = x + self.lost
        total = self.value + x
        kept = total - self.value
        return Sum(total, (self.value - (total - kept)) + (x - kept))


class Moments(eqx.Module):
    """Count, mean and sum of squared deviations, of each element of an array by itself."""

    count: Sum  # of samples, (); 0 before the first batch
    mean: Sum  # of the samples' shape
    squares: Sum  # Σ (x − mean)², likewise

    @property
    def variance(self) -> Float[Array, "..."]:
        """Σ (x − mean)² / count; 0 before the first batch."""
        return self.squares.value / jnp.maximum(self.count.value, 1)


def no_moments(shape: tuple[int, ...], dtype: jnp.dtype | type = jnp.float32) -> Moments:
    """Those of no samples, each of the given shape; in float32 at least."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    nothing = Sum(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    return Moments(Sum(jnp.zeros((), dtype), jnp.zeros((), dtype)), nothing, nothing)


def merge(moments: Moments, batch: Float[Array, "B ..."], axis: str | None = None) -> Moments:
    """The moments with B more samples.

    With n samples before, b more, their mean m, and δ = m − mean:

        mean ← mean + δ b / (n + b)
        squares ← squares + Σ (x − m)² + δ² n b / (n + b)

    **Arguments:**

    - `moments`: of the n samples, from `no_moments` or `merge`.
    - `batch`: `[B, …]`. Deviations are taken from the mean so far (from a sample at first), so that
        a mean far from 0 costs the variance no digits.
    - `axis`: of the mesh whose devices have B samples each, b = B · devices; `None` for one device.

    Source: Chan, Golub & LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances*, 1979, eq. 2.1.
    """
    n = moments.count.value
    b = jnp.asarray(batch.shape[0] * (1 if axis is None else lax.axis_size(axis)), n.dtype)
    batch = batch.astype(n.dtype)
    origin = jnp.where(n > 0, moments.mean.value, mean_over(axis, batch[0]))
    deviation = batch - origin
    mean = mean_over(axis, deviation.mean(axis=0))
    spread = mean_over(axis, jnp.square(deviation - mean).mean(axis=0))

    delta = mean - moments.mean.lost
    share = b / (n + b)
    return Moments(
        count=moments.count.plus(b),
        mean=Sum(origin, moments.mean.lost).plus(delta * share),
        squares=moments.squares.plus(b * spread + jnp.square(delta) * (n * share)),
    )
