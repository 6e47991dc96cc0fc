"""Action masks: which actions are legal, as the distributions of a policy take them."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softplus
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._core.spaces import bounds, children, is_box, is_composite, is_discrete, num_categories
from .._core.types import Distribution, PyTree
from ._distributions import Beta, Joint, TanhNormal


def masked(
    logits: Float[Array, "*batch n"], mask: Bool[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Logits that give what is not legal a probability of 0.

    Its logit is −2^100: its probability rounds to 0, and log-probability, entropy and all gradients
    are finite, where −∞ would bring 0 · ∞. Where nothing is legal all are NaN: there is no right
    action, and a run that asks for one should not go on as if there were.
    """
    illegal = jnp.asarray(-(2.0**100), jnp.float32)
    logits = jnp.where(mask, logits.astype(jnp.float32), illegal)
    return jnp.where(mask.any(axis=-1, keepdims=True), logits, jnp.nan)


def split_mask(sizes: PyTree, mask: PyTree) -> list[Bool[Array, " n"] | None]:
    """A mask for each part of an action, in the order of JAX's leaves.

    **Arguments:**

    - `sizes`: the number of categories of each part, in the structure of the action; 0 for a part
        that has none.
    - `mask`: as `rlscan.ActionHead` takes it.
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
    flat = jnp.concatenate([jnp.ravel(m) for m in jax.tree.leaves(mask)]) != 0
    if flat.size != sum(flat_sizes):
        raise ValueError(
            f"the action mask must say of {sum(flat_sizes)} categories whether each is legal, in "
            f"one array or in the structure of the action, got {jax.tree.map(jnp.shape, mask)}"
        )
    masks = jnp.split(flat, np.cumsum(flat_sizes)[:-1])
    return [m if size else None for m, size in zip(masks, flat_sizes, strict=True)]


Continuous = Literal["gaussian", "tanh", "beta"]


CONTINUOUS: tuple[Continuous, ...] = ("gaussian", "tanh", "beta")


class ActionHead(eqx.Module):
    """The distribution of the actions of a space, from the outputs of a network.

    | space | distribution | outputs |
    |---|---|---|
    | Discrete | categorical | n |
    | MultiDiscrete, MultiBinary | a categorical each | Σ n |
    | Box | `continuous`, for each component | 1, or 2 with a scale or a Beta |
    | Dict, Tuple | all of its parts, independent | of each, in the order of JAX's leaves |

    `continuous` is one of

    - `"gaussian"`: in units of the box's half-widths around its centre; a side without bounds
      counts as 0 ± 1. Samples outside are clipped on their way to the environment.
    - `"tanh"`: a Gaussian whose tanh fills the box. The sample is what goes into the tanh.
    - `"beta"`: with α, β = 1 + softplus(output). The sample is in (0, 1), and fills the box.

    The scale of a Gaussian is a learned number for each component, exp(log_std), 1 at first. With
    `state_dependent_std` it is an output, 0.01 + softplus(output + 0.53), so about 1 at first too.
    """

    parts: PyTree  # `Part`s, in dicts and tuples as the space has them
    num_outputs: int = eqx.field(static=True)

    def __init__(
        self, space: Any, *, continuous: Continuous = "gaussian", state_dependent_std: bool = False
    ):
        """
        **Arguments:**

        - `space`: of the actions, with gymnax's or Gymnasium's attributes.
        - `continuous`: what a Box gets, see above.
        - `state_dependent_std`: whether the scale of a Gaussian depends on the observation.

        **Raises:** `ValueError` for a space of another kind, for one without bounds that
        `continuous` would have to fill, and for settings that cannot be.
        """
        check_continuous(continuous, state_dependent_std)
        self.parts = _parts(space, continuous, state_dependent_std)
        self.num_outputs = sum(part.num_outputs for part in self._leaves())
        if self.num_outputs == 0:
            raise ValueError(_unfit(space))

    def __call__(
        self, outputs: Float[Array, " num_outputs"], *, mask: PyTree = None, key: PRNGKeyArray
    ) -> Distribution:
        """
        **Arguments:**

        - `outputs`: of a network, `num_outputs` of them.
        - `mask`: which actions are legal, as in an observation's `"action_mask"`. For Discrete
            `[n]`; for MultiDiscrete `[Σ n]`, one integer's after the other; for a Dict or Tuple one
            of such masks, its parts without categories, or that may do anything, left out or
            `None`; or one array `[Σ n]` over all categories in order.
        - `key`: consumed, for the estimate of an entropy that has no closed form.

        **Returns:** a distribution, of which nothing illegal is sampled. Where a part has no legal
        action its log-probability and entropy are NaN.
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
    """One of n."""

    num_categories: int = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return self.num_categories

    def __call__(self, outputs: Array, mask: Array | None, key: PRNGKeyArray) -> Distribution:
        import distrax  # takes a second, so not at the top

        return distrax.Categorical(logits=outputs if mask is None else masked(outputs, mask))


class _Categoricals(eqx.Module):
    """An array of integers, each of its own number of categories."""

    num_categories: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def num_outputs(self) -> int:
        return sum(self.num_categories)

    def __call__(self, outputs: Array, mask: Array | None, key: PRNGKeyArray) -> Distribution:
        import distrax

        # In one array, of which those with fewer categories do not have the last.
        there = np.arange(max(self.num_categories)) < np.asarray(self.num_categories)[:, None]
        where = np.nonzero(there)
        logits = jnp.zeros(there.shape, outputs.dtype).at[where].set(outputs)
        legal = jnp.asarray(there)
        if mask is not None:
            legal = legal.at[where].set(mask)
        logits = masked(logits, legal).reshape(*self.shape, -1)
        return distrax.Independent(distrax.Categorical(logits=logits), len(self.shape))


class _Continuous(eqx.Module):
    """An array of numbers in a box."""

    log_std: Float[Array, "..."] | None  # of the box's shape; `None` if it is an output, or a Beta
    kind: Continuous = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    # Flat. Not the space itself: two equal ones compare unequal, and so would two policies.
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
        # Not MultivariateNormalDiag, which does not come out of vmap (distrax#276).
        normal = distrax.Normal(center + half_width * mean, half_width * std)
        return distrax.Independent(normal, ndim)


Part = _Categorical | _Categoricals | _Continuous


# The rounding of a log-probability grows as 1 / std, and below a hundredth of a box no
# exploration is left.
_LEAST_STD = 0.01


_SOFTPLUS_IS_ONE = math.log(math.expm1(1 - _LEAST_STD))


def check_continuous(continuous: str, state_dependent_std: bool) -> None:
    """Raises `ValueError` for settings of continuous actions that cannot be."""
    if continuous not in CONTINUOUS:
        raise ValueError(f"continuous must be one of {', '.join(CONTINUOUS)}, got {continuous!r}")
    if state_dependent_std and continuous == "beta":
        raise ValueError(
            "state_dependent_std is of a Gaussian, and the scale of a Beta depends on the "
            "observation anyway; leave it out, or use continuous='gaussian' or 'tanh'"
        )


def _parts(space: Any, *settings: Any) -> PyTree:
    if is_composite(space):
        inner = children(space)
        if isinstance(inner, dict):
            return {name: _parts(child, *settings) for name, child in inner.items()}
        return tuple(_parts(child, *settings) for child in inner)
    if is_discrete(space):
        return _Categorical(int(space.n))
    if (categories := num_categories(space)) is not None:
        return _Categoricals(tuple(categories.ravel().tolist()), categories.shape)
    if is_box(space):
        return _continuous(space, *settings)
    raise ValueError(_unfit(space))


def _continuous(space: Any, kind: Continuous, state_dependent_std: bool) -> "_Continuous":
    low, high = bounds(space)
    bounded = np.isfinite(low) & np.isfinite(high)
    if kind != "gaussian" and not bounded.all():
        raise ValueError(
            f"continuous={kind!r} fills a box with bounds on all sides, got {space!r}; "
            "use continuous='gaussian'"
        )
    with np.errstate(invalid="ignore"):  # inf − inf, not used
        center = np.where(bounded, (low + high) / 2, 0.0)
        # A side of no width has one legal action, which clipping to the space sees to.
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
        f"or Tuple of them, got {space!r}; write a policy of your own: any eqx.Module by the "
        "contract of rlscan.Policy"
    )
