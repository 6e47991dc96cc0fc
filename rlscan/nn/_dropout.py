"""What every noisy layer asks for: a rate, and a key."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._core.types import PyTree
from ._trainable import NonTrainable


def as_rate(name: str, p: Any) -> float:
    """A rate in [0, 1) as a Python float: a constant of what is compiled, and no parameter.

    **Raises:** `ValueError` if `p` is no Python number in [0, 1).
    """
    if not (isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(
            f"{name} must be a Python number in [0, 1), got {p!r} of type {type(p).__name__}; "
            "0 switches the noise off"
        )
    return float(p)


def require_key(layer: Any, key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key that a layer draws with.

    **Raises:** `RuntimeError` if there is none, as the layers of Equinox do.
    """
    if key is None:
        name = type(layer).__name__
        raise RuntimeError(
            f"{name} requires a key outside of inference mode, got None; call it with "
            "key=key, one that no other layer draws with (jax.random.split), or switch its noise "
            "off with eqx.nn.inference_mode"
        )
    return key


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


# The rate after so many updates, as optax writes its schedules.
Schedule = Callable[[Any], Any]


class AnnealedDropout(eqx.Module):
    """`eqx.nn.Dropout` with a rate that may change from update to update.

    The rate is an array: another one compiles nothing anew, and it can be mapped over. It is
    marked as `rlscan.NonTrainable`, so neither gradients nor weight decay reach it. Other than
    `eqx.nn.Dropout`, a rate of 0 draws its bits all the same; `inference` draws none.
    """

    rate: NonTrainable
    schedule: Schedule | None
    inference: bool

    def __init__(self, p: float | int | Array | Schedule, inference: bool = False):
        """**Arguments:**

        - `p`: the rate, in [0, 1); or a schedule, a function from the number of updates made so
            far to the rate, such as `optax.linear_schedule(0.5, 0.0, 400)`. `rlscan.train` follows
            it; a loop of one's own calls `rlscan.nn.anneal`. It must stay below 1 to its end.
        - `inference`: whether it is switched off, as `eqx.nn.inference_mode` does.

        **Raises:** `ValueError` for a rate, or a first one of a schedule, outside [0, 1).
        """
        self.schedule = p if callable(p) else None
        start: Any = p(0) if callable(p) else p
        if not isinstance(start, Tracer) and not 0 <= start < 1:
            raise ValueError(f"p must be in [0, 1), got {start}; 0 drops nothing")
        self.rate = NonTrainable(jnp.asarray(start, jnp.float32))
        self.inference = inference

    @property
    def p(self) -> Float[Array, ""]:
        """The rate as it stands."""
        return self.rate.value

    def __call__(
        self, x: Array, *, key: PRNGKeyArray | None = None, inference: bool | None = None
    ) -> Array:
        """As `eqx.nn.Dropout`: each element is 0 with probability p, else x / (1 − p)."""
        inference = self.inference if inference is None else inference
        rate: Any = self.p  # annotated as a Python float, but made for arrays, too
        # The rate is float32, and what is scaled by it would be, too.
        return eqx.nn.Dropout(rate, inference)(x, key=key).astype(x.dtype)


def anneal(policy: PyTree, num_updates: int | Int[Array, ""]) -> PyTree:
    """The policy with the rate of each `AnnealedDropout` where its schedule has it.

    **Arguments:**

    - `policy`: any pytree. Layers without a schedule stay as they are.
    - `num_updates`: how many updates have been made.
    """

    def follow(node: Any) -> Any:
        if not isinstance(node, AnnealedDropout) or node.schedule is None:
            return node
        rate = jnp.asarray(node.schedule(num_updates), jnp.float32)
        return eqx.tree_at(lambda layer: layer.rate.value, node, rate)

    return jax.tree.map(follow, policy, is_leaf=lambda node: isinstance(node, AnnealedDropout))


def dropout_layer(rate: float | int | Schedule) -> eqx.nn.Dropout | AnnealedDropout:
    """Dropout at a rate that stays, or follows a schedule."""
    return AnnealedDropout(rate) if callable(rate) else eqx.nn.Dropout(rate)
