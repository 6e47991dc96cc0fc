"""`ChannelDropout`: drops whole feature maps, for convolutional policies."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._noise import as_rate, require_key


class ChannelDropout(eqx.Module):
    """Drops each channel c = 1 … C of a feature map with probability p, at all places s alike:

        y[c, s] = b[c] / (1 − p) · x[c, s],    b[c] ~ Bernoulli(1 − p).

    Neighbouring places of a feature map agree, so that elementwise dropout takes little from it.
    And it draws C bits, where `eqx.nn.Dropout` draws one for each place of each channel.

    Source: Tompson et al., *Efficient Object Localization Using Convolutional Networks*, 2015,
    arXiv:1411.4280, §3.2 (SpatialDropout).
    """

    p: float
    inference: bool

    def __init__(self, p: float | int = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the probability that a channel is dropped, in [0, 1).
        - `inference`: whether to return the input as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` for a `p` outside [0, 1).
        """
        self.p = as_rate("p", p)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, "*C_and_space"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
    ) -> Float[Array, "*C_and_space"]:
        """**Arguments:**

        - `x`: `[C, …]`, as the convolutions of Equinox return it for one observation.
        - `key`: consumed; not needed in inference mode, or if p = 0.
        - `inference`: overrides the layer's own.

        **Returns:** `[C, …]`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or self.p == 0:
            return x
        keep = jax.random.bernoulli(require_key(self, key), 1 - self.p, x.shape[:1])
        keep = jnp.expand_dims(keep, range(1, x.ndim))
        return jnp.where(keep, x / (1 - self.p), 0)
