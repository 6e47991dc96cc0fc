"""`NoisyLinear`: a linear layer that learns the scale of the noise on its weights."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.require import is_number, require_positive
from ._dropout import require_key


class NoisyLinear(eqx.Module):
    """A linear layer from p to q numbers, with Gaussian noise of a learnt scale on its parameters:

        y_j = Σ_i (μ_ji + σ_ji f(ε_i) f(ε'_j)) x_i + μ_j + σ_j f(ε'_j),    f(x) = sgn(x) √|x|,

    where i = 1 … p, j = 1 … q, and ε and ε' are standard normal. This is the paper's factorised
    noise, with p + q draws per call. In inference mode the layer uses the means μ alone.

    Exploration is learnt: if noise costs reward, the gradient decreases σ.

    Source: Fortunato et al., *Noisy Networks for Exploration*, 2018, arXiv:1706.10295, eq. 9–11.
    They draw noise once per minibatch. Here it is drawn once per call, so that the noise of a step
    depends on its key alone.
    """

    # μ, named as in `eqx.nn.Linear`, so that code which initialises that one initialises this one.
    weight: Float[Array, "out_features in_features"]
    """The means μ_ji."""
    bias: Float[Array, " out_features"] | None
    """The means μ_j; `None` without a bias."""
    # σ, of either sign, because the noise is symmetric.
    weight_sigma: Float[Array, "out_features in_features"]
    """The scales σ_ji, of either sign, because the noise is symmetric."""
    bias_sigma: Float[Array, " out_features"] | None
    """The scales σ_j; `None` without a bias."""

    in_features: int = eqx.field(static=True)
    """The number of inputs, p."""
    out_features: int = eqx.field(static=True)
    """The number of outputs, q."""
    use_bias: bool = eqx.field(static=True)
    """Whether there is a bias."""
    inference: bool
    """Whether the means are used alone; `eqx.nn.inference_mode` sets it."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        *,
        sigma: float | int = 0.5,
        inference: bool = False,
        key: PRNGKeyArray,
    ):
        """Draw every μ from U(−1/√p, 1/√p), and set every σ to sigma / √p (§3.2).

        **Arguments:**

        - `in_features`: p.
        - `out_features`: q.
        - `use_bias`: whether to add the noisy bias.
        - `sigma`: σ₀, the initial scale of the noise.
        - `inference`: whether to leave the noise out; see `eqx.nn.inference_mode`.
        - `key`: consumed.

        **Raises:** `ValueError` if a size is not a positive integer, or `sigma` is negative or not
        finite.
        """
        in_features = require_positive("in_features", in_features)
        out_features = require_positive("out_features", out_features)
        if not (is_number(sigma) and 0 <= sigma < math.inf):
            raise ValueError(
                f"sigma must be a finite number, 0 or more, got {sigma!r}; the paper uses 0.5"
            )
        weight_key, bias_key = jax.random.split(key)
        bound = 1 / math.sqrt(in_features)
        shape = out_features, in_features
        self.weight = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
        self.weight_sigma = jnp.full_like(self.weight, sigma * bound)
        self.bias = self.bias_sigma = None
        if use_bias:
            self.bias = jax.random.uniform(bias_key, shape[:1], minval=-bound, maxval=bound)
            self.bias_sigma = jnp.full_like(self.bias, sigma * bound)
        self.in_features, self.out_features = in_features, out_features
        self.use_bias = use_bias
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, " in_features"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, " out_features"]:
        """**Arguments:**

        - `x`: `[p]`.
        - `key`: consumed; not needed in inference mode.
        - `inference`: overrides the layer's own.

        **Returns:** `[q]`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        y = self.weight @ x
        if self.bias is not None:
            y = y + self.bias
        if inference:
            return y
        in_key, out_key = jax.random.split(require_key(self, key))
        in_noise = self._noise(in_key, self.in_features)
        # Factorised, so that the q × p matrix of the noise is never built: under vmap there would
        # be one for each environment.
        scale = self.weight_sigma @ (in_noise * x)
        if self.bias_sigma is not None:
            scale = scale + self.bias_sigma
        return y + self._noise(out_key, self.out_features) * scale

    def _noise(self, key: PRNGKeyArray, size: int) -> Float[Array, " size"]:
        noise = jax.random.normal(key, (size,), self.weight.dtype)
        return jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
