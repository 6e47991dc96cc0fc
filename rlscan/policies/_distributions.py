"""Distributions over actions that distrax lacks, or lacks in a form that can be replayed.

In addition to distrax's methods they have `legal`, see `rlscan.Distribution`. Each is for one
action; batches of parameters, as returned from `vmap`, are batches of actions.
"""

import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import softplus
from jaxtyping import Array, Float

from .._core.types import PyTree, is_distribution


class TanhNormal(eqx.Module):
    """A Gaussian u ~ N(loc, scale²) whose tanh, scaled to a box, is sent to the environment.

    The sample is u, because float32 rounds tanh(u) to ±1 even for moderate u, and the inverse is
    lost. Its log-probability and entropy are those of the action that is sent, in the units of the
    box, with h its half-width:

        log π = Σ log N(u; loc, scale) − log h − 2 (log 2 − u − softplus(−2u))

    The entropy has no closed form. The term that the tanh adds to the Gaussian's entropy is
    estimated with one reparameterised sample, loc + scale · noise. The recorded action would not
    do: its −log π has the right mean, but the mean of its gradient is 0, like that of any score.

    The mode is the Gaussian's, and thus the median of the action that is sent.
    """

    loc: Float[Array, "*event"]
    """The mean of u, `[*batch, *event]`."""
    scale: Float[Array, "*event"]
    """The standard deviation of u, likewise."""
    noise: Float[Array, "*event"]
    """A standard normal sample, used for the entropy alone."""
    center: Float[Array, "*event"]
    """The centre of the box."""
    half_width: Float[Array, "*event"]
    """Half the width of the box, h."""
    event_ndim: int = eqx.field(static=True)
    """The number of axes of one action."""

    def sample(self, *, seed: Any) -> Float[Array, "*event"]:
        return self.loc + self.scale * jax.random.normal(seed, self.loc.shape, self.loc.dtype)

    def log_prob(self, value: Any) -> Float[Array, "*batch"]:
        z = (value - self.loc) / self.scale
        normal = -0.5 * z**2 - jnp.log(self.scale) - 0.5 * math.log(2 * math.pi)
        return _over_event(normal - self._log_stretch(value), self.event_ndim)

    def entropy(self) -> Float[Array, "*batch"]:
        normal = jnp.log(self.scale) + 0.5 * math.log(2 * math.pi * math.e)
        sample = self.loc + self.scale * self.noise
        return _over_event(normal + self._log_stretch(sample), self.event_ndim)

    def mode(self) -> Float[Array, "*event"]:
        return self.loc

    def mean(self) -> Float[Array, "*event"]:
        return self.loc

    def stddev(self) -> Float[Array, "*event"]:
        return self.scale

    def legal(self, action: Any) -> Float[Array, "*event"]:
        return self.center + self.half_width * jnp.tanh(action)

    def _log_stretch(self, u: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """log |∂ legal(u) / ∂u|, finite for any u, unlike log(1 − tanh²u)."""
        return jnp.log(self.half_width) + 2 * (math.log(2) - u - softplus(-2 * u))


class Beta(eqx.Module):
    """x ~ Beta(α, β) for each component, with α, β > 1, scaled to a box.

    The sample is x. Its log-probability and entropy are those of the action that is sent, in the
    units of the box. All density is inside the box, so nothing is clipped.

    Source: Chou et al., *Improving Stochastic Policy Gradients in Continuous Control with Deep
    Reinforcement Learning using the Beta Distribution*, ICML 2017.
    """

    over_one: Float[Array, "*event"]
    """α − 1, `[*batch, *event]`."""
    under_one: Float[Array, "*event"]
    """β − 1, likewise."""
    low: Float[Array, "*event"]
    """The lower bounds of the box."""
    width: Float[Array, "*event"]
    """The width of the box."""
    event_ndim: int = eqx.field(static=True)
    """The number of axes of one action."""

    def sample(self, *, seed: Any) -> Float[Array, "*event"]:
        return _inside(self._distrax().sample(seed=seed))

    def log_prob(self, value: Any) -> Float[Array, "*batch"]:
        log_prob = self._distrax().log_prob(value) - jnp.log(self.width)
        return _over_event(log_prob, self.event_ndim)

    def entropy(self) -> Float[Array, "*batch"]:
        return _over_event(self._distrax().entropy() + jnp.log(self.width), self.event_ndim)

    def mode(self) -> Float[Array, "*event"]:
        # If both are 0, the distribution is uniform and any point is a mode: take the middle.
        over_one, under_one = self.over_one + 1e-6, self.under_one + 1e-6
        return _inside(over_one / (over_one + under_one))

    def mean(self) -> Float[Array, "*event"]:
        return self._distrax().mean()

    def stddev(self) -> Float[Array, "*event"]:
        return self._distrax().stddev()

    def legal(self, action: Any) -> Float[Array, "*event"]:
        return self.low + self.width * action

    def _distrax(self) -> Any:
        import distrax  # not at the top, because importing it takes a second

        return distrax.Beta(1 + self.over_one, 1 + self.under_one)


class Joint(eqx.Module):
    """Independent distributions in dicts and tuples of any nesting; so are its samples.

    `distrax.Joint` accepts only distributions of distrax, and has no `legal`.
    """

    distributions: PyTree
    """The distributions, in dicts and tuples."""

    def sample(self, *, seed: Any) -> PyTree:
        leaves, structure = jax.tree.flatten(self.distributions, is_leaf=is_distribution)
        seeds = jax.tree.unflatten(structure, list(jax.random.split(seed, len(leaves))))
        return self._map(lambda d, s: d.sample(seed=s), seeds)

    def log_prob(self, value: PyTree) -> Float[Array, "*batch"]:
        return _sum(self._map(lambda d, v: d.log_prob(v), value))

    def entropy(self) -> Float[Array, "*batch"]:
        return _sum(self._map(lambda d: d.entropy()))

    def mode(self) -> PyTree:
        return self._map(lambda d: d.mode())

    def legal(self, action: PyTree) -> PyTree:
        return self._map(lambda d, a: d.legal(a) if hasattr(d, "legal") else a, action)

    def _map(self, f: Callable[..., Any], *trees: PyTree) -> PyTree:
        return jax.tree.map(f, self.distributions, *trees, is_leaf=is_distribution)


def _sum(tree: PyTree) -> Float[Array, "*batch"]:
    return reduce(add, jax.tree.leaves(tree))


def _over_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "..."]:
    return x.sum(axis=tuple(range(-event_ndim, 0)))


def _inside(x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Keep x away from 0 and 1, to which float32 rounds and at which a log-probability is ∞."""
    return jnp.clip(x, 1e-6, 1 - 1e-6)
