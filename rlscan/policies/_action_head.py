"""`ActionHead`: the distribution over the actions of a space, with action masks."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softplus
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._core.nan import nan_or
from .._core.require import require_one_of
from .._core.spaces import Path, bounds, constant, is_box, is_discrete, map_space, num_categories
from .._core.types import Distribution, PyTree
from ._distributions import Beta, Joint, TanhNormal


def masked(
    logits: Float[Array, "*batch n"], mask: Bool[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Logits that give illegal actions a probability of 0.

    The logit of an illegal action is −2^100. Its probability rounds to 0, and log-probability,
    entropy and all gradients stay finite; −∞ would lead to 0 · ∞. If no action is legal, all logits
    are NaN (−∞ under `jax_debug_nans`), so that a run which needs an action there does not go on
    silently.
    """
    illegal = jnp.asarray(-(2.0**100), jnp.float32)
    logits = jnp.where(mask, logits.astype(jnp.float32), illegal)
    return jnp.where(mask.any(axis=-1, keepdims=True), logits, nan_or(-math.inf))


def split_mask(sizes: PyTree, mask: PyTree) -> list[Bool[Array, " n"] | None]:
    """Split a mask into one for each part of an action, in the order of JAX's leaves.

    **Arguments:**

    - `sizes`: the number of categories of each part, in the structure of the action; 0 for a
        continuous part.
    - `mask`: as for `rlscan.policies.ActionHead`.
    """
    if isinstance(sizes, dict) and isinstance(mask, Mapping):
        if unknown := sorted(set(mask) - set(sizes)):
            raise ValueError(f"the action mask has {unknown}, but the actions {sorted(sizes)}")
        pairs = [(sizes[name], mask.get(name)) for name in sorted(sizes)]
        return [m for pair in pairs for m in split_mask(*pair)]
    if isinstance(sizes, tuple) and isinstance(mask, tuple | list):
        if len(sizes) != len(mask):
            raise ValueError(f"the action mask has {len(mask)} parts, the actions {len(sizes)}")
        return [m for pair in zip(sizes, mask, strict=True) for m in split_mask(*pair)]
    flat_sizes = jax.tree.leaves(sizes)
    if mask is None:
        return [None] * len(flat_sizes)
    flat = jnp.concatenate([jnp.ravel(m).astype(bool) for m in jax.tree.leaves(mask)])
    if flat.size != sum(flat_sizes):
        raise ValueError(
            f"the action mask must have an entry for each of {sum(flat_sizes)} categories, in one "
            f"array or in the structure of the action, got {jax.tree.map(jnp.shape, mask)}"
        )
    masks = jnp.split(flat, np.cumsum(flat_sizes)[:-1])
    return [m if size else None for m, size in zip(masks, flat_sizes, strict=True)]


Continuous = Literal["gaussian", "tanh", "beta"]
CONTINUOUS: tuple[Continuous, ...] = ("gaussian", "tanh", "beta")


class ActionHead(eqx.Module):
    """Maps the outputs of a network to a distribution over the actions of a space.

    | space | distribution | outputs |
    |---|---|---|
    | Discrete | categorical | n |
    | MultiDiscrete, MultiBinary | a categorical each | Σ n |
    | Box | `continuous`, for each component | 1, or 2 with a scale or a Beta |
    | Dict, Tuple | its parts, independent of each other | the parts' in the order of JAX's leaves |

    `continuous` is one of

    - `"gaussian"`: in units of the box's half-widths around its centre; an unbounded dimension
      counts as 0 ± 1. Samples outside the box are clipped before they are sent to the environment.
    - `"tanh"`: a Gaussian whose tanh is scaled to the box. The sample is the value before the tanh.
    - `"beta"`: α, β = 1 + softplus(output). The sample is in (0, 1), and is scaled to the box.

    The scale of a Gaussian is a learned parameter for each component, exp(log_std), initially 1.
    With `state_dependent_std` it is an output, 0.01 + softplus(output + 0.53), initially about 1.
    """

    parts: PyTree
    """A part of the head for each leaf of the space, in dicts and tuples as the space has them."""
    num_outputs: int = eqx.field(static=True)
    """The number of outputs that the network must have."""

    def __init__(
        self, space: Any, *, continuous: Continuous = "gaussian", state_dependent_std: bool = False
    ):
        """
        **Arguments:**

        - `space`: the action space, with gymnax's or Gymnasium's attributes.
        - `continuous`: the distribution for a Box, see above.
        - `state_dependent_std`: whether the scale of a Gaussian depends on the observation.

        **Raises:** `ValueError` for a space of another kind, for an unbounded Box unless
        `continuous` is `"gaussian"`, and for invalid settings.
        """
        check_continuous(continuous, state_dependent_std)
        part = partial(_part, continuous=continuous, state_dependent_std=state_dependent_std)
        self.parts = map_space(part, space)
        self.num_outputs = sum(part.num_outputs for part in self._leaves())
        if self.num_outputs == 0:
            raise ValueError(_unfit(space))

    def __call__(
        self, outputs: Float[Array, " num_outputs"], *, mask: PyTree = None, key: PRNGKeyArray
    ) -> Distribution:
        """
        **Arguments:**

        - `outputs`: the outputs of the network.
        - `mask`: the legal actions, as in an observation's `"action_mask"`. `[n]` for a Discrete;
            `[Σ n]` for a MultiDiscrete, one integer after the other; for a Dict or Tuple, either a
            dict or tuple of masks, or one array `[Σ n]` over all categories in order. A part
            without categories or restrictions may be `None`, or missing from a dict.
        - `key`: consumed, for the estimate of an entropy that has no closed form.

        **Returns:** a distribution that never samples an illegal action. If a part has no legal
        action, its log-probability and entropy are NaN.
        """
        if jnp.shape(outputs) != (self.num_outputs,):
            raise ValueError(
                f"this ActionHead takes {self.num_outputs} outputs, got an array of shape "
                f"{jnp.shape(outputs)}; build it for the environment that it acts in"
            )
        leaves, structure = jax.tree.flatten(self.parts, is_leaf=_is_part)
        sizes = [0 if isinstance(part, _Continuous) else part.num_outputs for part in leaves]
        masks = split_mask(jax.tree.unflatten(structure, sizes), mask)
        keys = jax.random.split(key, len(leaves))
        ends = np.cumsum([part.num_outputs for part in leaves])[:-1]
        distributions = [
            part(*of_part)
            for part, *of_part in zip(leaves, jnp.split(outputs, ends), masks, keys, strict=True)
        ]
        if _is_part(self.parts):
            return distributions[0]
        return Joint(jax.tree.unflatten(structure, distributions))

    def _leaves(self) -> list[Any]:
        return jax.tree.leaves(self.parts, is_leaf=_is_part)


class _Categorical(eqx.Module):
    """A part for one of n categories."""

    num_categories: int = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return self.num_categories

    def __call__(self, outputs: Array, mask: Array | None, key: PRNGKeyArray) -> Distribution:
        import distrax  # not at the top, because importing it takes a second

        return distrax.Categorical(logits=outputs if mask is None else masked(outputs, mask))


class _Categoricals(eqx.Module):
    """A part for an array of integers, each with its own number of categories."""

    num_categories: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return sum(self.num_categories)

    def __call__(self, outputs: Array, mask: Array | None, key: PRNGKeyArray) -> Distribution:
        import distrax

        # One padded array, so that the parts share one distribution.
        there = np.arange(max(self.num_categories)) < np.asarray(self.num_categories)[:, None]
        where = np.nonzero(there)
        logits = jnp.zeros(there.shape, outputs.dtype).at[where].set(outputs)
        legal = jnp.asarray(there)
        if mask is not None:
            legal = legal.at[where].set(mask)
        logits = masked(logits, legal).reshape(*self.shape, -1)
        with jax.legacy_prng_key("allow"):  # distrax finds a shape with a raw key
            return distrax.Independent(distrax.Categorical(logits=logits), len(self.shape))


class _Continuous(eqx.Module):
    """A part for an array of numbers in a box."""

    log_std: Float[Array, "..."] | None  # of the box's shape; `None` if it is an output, or a Beta
    kind: Continuous = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    # Flat tuples instead of the space, because two equal spaces compare unequal, and so would
    # two policies.
    center: tuple[float, ...] = eqx.field(static=True)
    half_width: tuple[float, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return len(self.center) * (1 if self.log_std is not None else 2)

    def __call__(self, outputs: Array, mask: None, key: PRNGKeyArray) -> Distribution:
        import distrax

        ndim = len(self.shape)
        center = jnp.reshape(jnp.asarray(self.center), self.shape)
        half_width = jnp.reshape(jnp.asarray(self.half_width), self.shape)
        if self.kind == "beta":
            over_one, under_one = softplus(outputs).reshape(2, *self.shape)
            return Beta(over_one, under_one, center - half_width, 2 * half_width, ndim)
        if self.log_std is None:
            mean, raw = outputs.reshape(2, *self.shape)
            std = _LEAST_STD + softplus(raw + _SOFTPLUS_IS_ONE)
        else:
            mean, std = outputs.reshape(self.shape), jnp.exp(self.log_std)
        if self.kind == "tanh":
            noise = jax.random.normal(key, self.shape, outputs.dtype)
            return TanhNormal(mean, std, noise, center, half_width, ndim)
        # MultivariateNormalDiag cannot be returned from vmap (distrax#276).
        normal = distrax.Normal(center + half_width * mean, half_width * std)
        return distrax.Independent(normal, ndim)


Part = _Categorical | _Categoricals | _Continuous


# The rounding error of a log-probability grows as 1 / std, and a std below a hundredth of the box
# leaves no exploration.
_LEAST_STD = 0.01
_SOFTPLUS_IS_ONE = math.log(math.expm1(1 - _LEAST_STD))


def check_continuous(continuous: str, state_dependent_std: bool) -> None:
    """Raise `ValueError` for invalid settings of continuous actions."""
    require_one_of("continuous", continuous, CONTINUOUS)
    if state_dependent_std and continuous == "beta":
        raise ValueError(
            "state_dependent_std applies to a Gaussian, and the scale of a Beta depends on the "
            "observation anyway; leave it out, or use continuous='gaussian' or 'tanh'"
        )


def _part(_: Path, space: Any, *, continuous: Continuous, state_dependent_std: bool) -> Part:
    if is_discrete(space):
        return _Categorical(int(constant(space, "n")))
    if (categories := num_categories(space)) is not None:
        return _Categoricals(tuple(categories.ravel().tolist()), categories.shape)
    if is_box(space):
        return _continuous(space, continuous, state_dependent_std)
    raise ValueError(_unfit(space))


def _continuous(space: Any, kind: Continuous, state_dependent_std: bool) -> _Continuous:
    low, high = bounds(space)
    bounded = np.isfinite(low) & np.isfinite(high)
    if kind != "gaussian" and not bounded.all():
        raise ValueError(
            f"continuous={kind!r} needs a box with bounds on all sides, got {space!r}; "
            "use continuous='gaussian'"
        )
    with np.errstate(invalid="ignore"):  # inf − inf, not used
        center = np.where(bounded, (low + high) / 2, 0.0)
        # A dimension of no width has one legal action, to which every sample is clipped.
        half_width = np.where(bounded & (low < high), (high - low) / 2, 1.0)
    shape = tuple(map(int, space.shape))
    has_parameter = kind != "beta" and not state_dependent_std
    return _Continuous(
        log_std=jnp.zeros(shape) if has_parameter else None,
        kind=kind,
        shape=shape,
        center=tuple(center.ravel().tolist()),
        half_width=tuple(half_width.ravel().tolist()),
    )


def _is_part(node: Any) -> bool:
    return isinstance(node, Part)


def _unfit(space: Any) -> str:
    return (
        "an ActionHead acts in a Discrete, MultiDiscrete, MultiBinary or Box space, or in a Dict "
        f"or Tuple of them, got {space!r}; write a policy of your own: any eqx.Module that follows "
        "the contract of rlscan.Policy"
    )
