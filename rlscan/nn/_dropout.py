"""Dropout layers that Equinox lacks, and the key that every noisy layer takes."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._core.require import is_known, is_number, require_rate
from .._core.types import PyTree
from ._trainable import NonTrainable


def require_key(layer: Any, key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key, if there is one.

    **Raises:** `RuntimeError` if it is `None`, like the layers of Equinox.
    """
    if key is None:
        name = type(layer).__name__
        raise RuntimeError(
            f"{name} requires a key outside of inference mode, got None; call it with key=key, "
            "a key of its own (jax.random.split), or switch its noise off with "
            "eqx.nn.inference_mode"
        )
    return key


# Rates may be Python's numbers, which are constants of a program, or arrays, which are not.
Rate = float | NonTrainable


def as_rate(name: str, p: Any) -> Rate:
    """The rate as a layer holds it.

    A number of Python or NumPy becomes a float. An array of JAX stays one, so that it can be traced
    and mapped over, and is marked as `rlscan.nn.NonTrainable`.

    **Raises:** `ValueError` unless it is one number in [0, 1); a traced one may have any value.
    """
    p = rate_value(p)
    if not isinstance(p, jax.Array):
        return require_rate(name, p)
    if p.shape:
        raise ValueError(
            f"{name} must be a number in [0, 1), got an array of shape {p.shape}; for a policy of "
            "each rate, build it inside of the function that jax.vmap maps over them"
        )
    if is_known(p) or not is_number(p):
        require_rate(name, p)
    return NonTrainable(jnp.asarray(p, jnp.float32))


def rate_value(rate: Any) -> Any:
    """The number, or the array without its marker."""
    return rate.value if isinstance(rate, NonTrainable) else rate


def is_off(rate: Any) -> bool:
    """Whether a rate is known to be 0, so that nothing need be drawn."""
    return not isinstance(rate, NonTrainable | jax.Array) and rate == 0


def keep_where(keep: Bool[Array, "..."], x: Array, rate: Any) -> Array:
    """`x` divided by 1 − p for the entries to keep, 0 for the others."""
    scaled = x / (1 - rate_value(rate))
    # A rate that is an array would promote a bfloat16 input.
    return jnp.where(keep, scaled.astype(jnp.result_type(x, 1.0)), 0)


class DropPath(eqx.Module):
    """A layer that drops a whole residual branch f with probability p, with one draw per call:

        y = x + b / (1 − p) · f(x),    b ~ Bernoulli(1 − p),

    written `y = x + drop_path(f(x), key=key)`. So E[y] = x + f(x), which is y in inference mode.
    In a network of L blocks, the paper drops block l = 1 … L at the rate p_l = l / L · p_L.

    It draws a single bit, which is far cheaper than elementwise dropout. A dropped branch is
    computed all the same, because the draw differs between environments.

    Source: Huang et al., *Deep Networks with Stochastic Depth*, 2016, arXiv:1603.09382. They scale
    the branch by 1 − p in inference; here it is scaled in training, as in `eqx.nn.Dropout`.
    """

    p: Rate
    """The probability of dropping the branch."""
    inference: bool
    """Whether nothing is dropped; `eqx.nn.inference_mode` sets it."""

    def __init__(self, p: float | int | Array = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the probability of dropping the branch, in [0, 1). A JAX array is kept as a
            `NonTrainable`, so that it can be traced and mapped over.
        - `inference`: whether to return the branch as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` if `p` is outside [0, 1).
        """
        self.p = as_rate("p", p)
        self.inference = inference

    def __call__(
        self, x: PyTree, *, key: PRNGKeyArray | None = None, inference: bool | None = None
    ) -> PyTree:
        """**Arguments:**

        - `x`: the output of the branch, an array or a pytree of arrays of any shapes.
        - `key`: consumed; not needed in inference mode, or if p = 0.
        - `inference`: overrides the layer's own.

        **Returns:** `x` divided by 1 − p, or zeros of its shapes.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or is_off(self.p):
            return x
        keep = jax.random.bernoulli(require_key(self, key), 1 - rate_value(self.p))
        return jax.tree.map(lambda leaf: keep_where(keep, leaf, self.p), x)


class ChannelDropout(eqx.Module):
    """A layer that drops each channel c = 1 … C of a feature map with probability p:

        y[c, s] = b[c] / (1 − p) · x[c, s],    b[c] ~ Bernoulli(1 − p),

    for all positions s. Neighbouring positions of a feature map are correlated, so elementwise
    dropout removes little information from it. It draws C bits, while `eqx.nn.Dropout` draws one
    for each position of each channel.

    Source: Tompson et al., *Efficient Object Localization Using Convolutional Networks*, 2015,
    arXiv:1411.4280, §3.2 (SpatialDropout).
    """

    p: Rate
    """The probability of dropping a channel."""
    inference: bool
    """Whether nothing is dropped; `eqx.nn.inference_mode` sets it."""

    def __init__(self, p: float | int | Array = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the probability of dropping a channel, in [0, 1); an array as for `DropPath`.
        - `inference`: whether to return the input as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` if `p` is outside [0, 1).
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

        - `x`: `[C, …]`, the output of an Equinox convolution for one observation.
        - `key`: consumed; not needed in inference mode, or if p = 0.
        - `inference`: overrides the layer's own.

        **Returns:** `[C, …]`.

        **Raises:** `RuntimeError` if a key is needed and missing.
        """
        inference = self.inference if inference is None else inference
        if inference or is_off(self.p):
            return x
        keep = jax.random.bernoulli(require_key(self, key), 1 - rate_value(self.p), x.shape[:1])
        return keep_where(jnp.expand_dims(keep, range(1, x.ndim)), x, self.p)


class GaussianDropout(eqx.Module):
    """A layer that multiplies each entry i by Gaussian noise with a dropout mask's moments:

        y_i = (1 + √(p / (1 − p)) ε_i) x_i,    ε_i ~ N(0, 1).

    The factor has the mean and the variance of a dropout mask of rate p. Use it for a policy that
    is smooth in its noise: no entry is ever switched off, and one number sets the amount of
    exploration.

    Source: Srivastava et al., *Dropout*, JMLR 15, 2014, §10; the variance as in Kingma et al.,
    *Variational Dropout and the Local Reparameterization Trick*, 2015, arXiv:1506.02557.
    """

    p: Rate
    """The rate of the dropout with the same variance."""
    inference: bool
    """Whether there is no noise; `eqx.nn.inference_mode` sets it."""

    def __init__(self, p: float | int | Array = 0.5, inference: bool = False):
        """**Arguments:**

        - `p`: the rate of the dropout with the same variance, in [0, 1); an array as for
            `DropPath`.
        - `inference`: whether to return the input as it is; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` if `p` is outside [0, 1).
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
        if inference or is_off(self.p):
            return x
        noise = jax.random.normal(require_key(self, key), x.shape, x.dtype)
        p = rate_value(self.p)
        root = jnp.sqrt if isinstance(p, jax.Array) else math.sqrt
        return x * (1 + root(p / (1 - p)) * noise).astype(x.dtype)


# A function from the number of updates made so far to the rate, like optax's schedules.
Schedule = Callable[[Any], Any]


class AnnealedDropout(eqx.Module):
    """`eqx.nn.Dropout` with a rate that may change from update to update.

    The rate is an array, so a new rate compiles nothing again, and it can be mapped over. It is
    marked as `rlscan.nn.NonTrainable`, so neither gradients nor weight decay reach it. Unlike
    `eqx.nn.Dropout`, it draws its bits even at a rate of 0; with `inference` it draws none.
    """

    rate: NonTrainable
    """The current rate, marked so that no gradient step changes it."""
    schedule: Schedule | None
    """The schedule of the rate over updates; `None` if it is constant."""
    inference: bool
    """Whether nothing is dropped; `eqx.nn.inference_mode` sets it."""

    def __init__(self, p: float | int | Array | Schedule, inference: bool = False):
        """**Arguments:**

        - `p`: the rate, in [0, 1); or a schedule, a function from the number of updates made so
            far to the rate, such as `optax.linear_schedule(0.5, 0.0, 400)`. `rlscan.train` applies
            the schedule; a training loop of your own calls `rlscan.nn.anneal`. Every rate of the
            schedule must be below 1.
        - `inference`: whether to drop nothing; see `eqx.nn.inference_mode`.

        **Raises:** `ValueError` if the rate, or the first one of a schedule, is outside [0, 1).
        """
        self.schedule = p if callable(p) else None
        start = as_rate("p", p(0) if callable(p) else p)
        self.rate = NonTrainable(jnp.asarray(rate_value(start), jnp.float32))
        self.inference = inference

    @property
    def p(self) -> Float[Array, ""]:
        """The current rate."""
        return self.rate.value

    def __call__(
        self, x: Array, *, key: PRNGKeyArray | None = None, inference: bool | None = None
    ) -> Array:
        """Set each element to 0 with probability p, else divide it by 1 − p."""
        inference = self.inference if inference is None else inference
        rate: Any = self.p  # Equinox annotates a Python float, but accepts an array
        # The float32 rate would promote a bfloat16 input.
        return eqx.nn.Dropout(rate, inference)(x, key=key).astype(x.dtype)


def anneal(policy: PyTree, num_updates: int | Int[Array, ""]) -> PyTree:
    """Set the rate of each `AnnealedDropout` to the value of its schedule.

    **Arguments:**

    - `policy`: any pytree. Layers without a schedule stay as they are.
    - `num_updates`: the number of updates made so far.

    **Returns:** the policy with its new rates.
    """

    def follow(node: Any) -> Any:
        if not isinstance(node, AnnealedDropout) or node.schedule is None:
            return node
        rate = jnp.asarray(node.schedule(num_updates), jnp.float32)
        return eqx.tree_at(lambda layer: layer.rate.value, node, rate)

    return jax.tree.map(follow, policy, is_leaf=lambda node: isinstance(node, AnnealedDropout))


def dropout_layer(
    p: float | int | Array | Schedule, name: str = "dropout"
) -> eqx.nn.Dropout | AnnealedDropout:
    """Dropout at a constant rate, at one that is an array, or at one that follows a schedule."""
    rate = p if callable(p) else as_rate(name, p)
    return eqx.nn.Dropout(rate) if isinstance(rate, float) else AnnealedDropout(rate_value(rate))
