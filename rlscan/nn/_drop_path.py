"""`DropPath`: stochastic depth, which drops a whole residual branch or nothing of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._types import PyTree
from ._noise import as_rate, require_key


class DropPath(eqx.Module):
    """Drops a whole residual branch f with probability p, by one draw for each call:

        y = x + b / (1 − p) · f(x),    b ~ Bernoulli(1 − p),

    written `y = x + drop_path(f(x), key=key)`. So E[y] = x + f(x), and in inference mode y is that.
    Of L blocks, the paper drops block l = 1 … L at the rate p_l = l / L · p_L.

    One bit is all that it draws: a policy pays far less for it than for elementwise dropout.
    The branch is computed even where it is dropped, as the draw differs between environments.

    Source: Huang et al., *Deep Networks with Stochastic Depth*, 2016, arXiv:1603.09382. They scale
    the branch by 1 − p in inference; here it is scaled while it acts, as `eqx.nn.Dropout` does.
    """

    p: float
    inference: bool

    def __init__(self, p: float | int = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the probability that the branch is dropped, in [0, 1).
        - `inference`: whether to return the branch as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` for a `p` outside [0, 1).
        """
        self.p = as_rate("p", p)
        self.inference = inference

    def __call__(
        self, x: PyTree, *, key: PRNGKeyArray | None = None, inference: bool | None = None
    ) -> PyTree:
        """**Arguments:**

        - `x`: what the branch says, an array or a pytree of arrays of any shapes.
        - `key`: consumed; not needed in inference mode, or if p = 0.
        - `inference`: overrides the layer's own.

        **Returns:** all of `x`, divided by 1 − p, or zeros of its shapes.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or self.p == 0:
            return x
        keep = jax.random.bernoulli(require_key(self, key), 1 - self.p)
        return jax.tree.map(lambda leaf: jnp.where(keep, leaf / (1 - self.p), 0), x)
