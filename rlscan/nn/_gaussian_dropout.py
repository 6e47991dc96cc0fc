"""`GaussianDropout`: multiplicative noise with the mean and variance of dropout, and no zeros."""

import math

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._noise import as_rate, require_key


class GaussianDropout(eqx.Module):
    """Multiplies each entry i by a Gaussian with mean and variance of a dropout mask of rate p:

        y_i = (1 + √(p / (1 − p)) ε_i) x_i,    ε_i ~ N(0, 1).

    For a policy that is to be smooth in its noise: nothing is ever switched off, and the size of
    the exploration is one number.

    Source: Srivastava et al., *Dropout*, JMLR 15, 2014, §10; the variance as in Kingma et al.,
    *Variational Dropout and the Local Reparameterization Trick*, 2015, arXiv:1506.02557.
    """

    p: float
    inference: bool

    def __init__(self, p: float | int = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the rate of the dropout that it stands for, in [0, 1).
        - `inference`: whether to return the input as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` for a `p` outside [0, 1).
        """
        self.p = as_rate("p", p)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, "*shape"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "*shape"]:
        """**Arguments:**

        - `x`: an array of any shape.
        - `key`: consumed; not needed in inference mode, or if p = 0.
        - `inference`: overrides the layer's own.

        **Returns:** an array of the shape of `x`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or self.p == 0:
            return x
        noise = jax.random.normal(require_key(self, key), x.shape, x.dtype)
        return x * (1 + math.sqrt(self.p / (1 - self.p)) * noise)
