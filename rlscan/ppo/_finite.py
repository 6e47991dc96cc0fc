"""Detection of numbers that are not finite, inside a compiled update."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._core.mesh import all_devices
from .._core.tree import where
from .._core.types import PyTree


class Divergence(eqx.Module):
    """The first place in a run where a number was not finite, if any."""

    update: Int[Array, ""]
    """The number of the update, counted from 1; 0 while everything is finite."""
    minibatch: Int[Array, ""]
    """The number of the minibatch, counted from 1 over all epochs; 0 if it was in the rollout."""


class DivergenceError(RuntimeError):
    """A number of training is not finite any more, so training cannot go on."""

    runs: list[int] | None = None
    """The indices of the diverged runs, if several are trained side by side."""


def place_of(divergence: Divergence) -> str:
    """Describe it as `update 3, minibatch 2`."""
    minibatch = int(divergence.minibatch)
    part = f"minibatch {minibatch}" if minibatch else "rollout"
    return f"update {int(divergence.update)}, {part}"


def no_divergence() -> Divergence:
    return Divergence(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def first_divergence(
    before: Divergence,
    update: Int[Array, ""],
    rollout: Bool[Array, ""],
    steps: Bool[Array, "num_epochs num_minibatches"],
    statistics: Bool[Array, ""],
) -> Divergence:
    """Find the divergence of this update, unless there was one before.

    **Arguments:** what is finite, in the order of computation: the `rollout`, the gradient `steps`,
    and the `statistics`, which move after the last step and are counted with it.
    """
    failed = ~jnp.concatenate([rollout[None], steps.ravel(), statistics[None]])
    now = Divergence(
        update=jnp.where(failed.any(), update, 0).astype(jnp.int32),
        minibatch=jnp.minimum(jnp.argmax(failed), steps.size).astype(jnp.int32),
    )
    return where(before.update > 0, before, now)


def is_step_finite(
    loss: Float[Array, ""], grads: PyTree, grad_norm: Float[Array, ""], params: PyTree
) -> Bool[Array, ""]:
    """Whether all numbers of a gradient step are finite.

    The norm stands for the gradient: it is computed anyway, and a gradient whose norm overflows is
    clipped to 0 or NaN.
    """
    return jnp.isfinite(loss) & jnp.isfinite(grad_norm) & all_finite(params)


def which_are_finite(
    loss: Float[Array, ""], grads: PyTree, grad_norm: Float[Array, ""], params: PyTree
) -> dict[str, PyTree]:
    """Find the finite leaves of a gradient step, for `rlscan.ppo.explain_divergence`."""
    each = lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)  # noqa: E731
    return {"gradient": each(grads), "parameter": each(params)}


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floats of a tree are finite, on all devices."""
    # `isfinite` on each number, because a sum of finite numbers may overflow.
    return all_devices(every([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def stay_finite(before: PyTree, after: PyTree) -> PyTree:
    """Whether all floats that were finite still are, leaf by leaf; constants may be infinite."""
    before, after = (eqx.filter(tree, eqx.is_inexact_array) for tree in (before, after))
    return jax.tree.map(lambda x, y: (jnp.isfinite(y) | ~jnp.isfinite(x)).all(), before, after)


def every(conditions: PyTree) -> Bool[Array, ""]:
    return reduce(jnp.logical_and, jax.tree.leaves(conditions), jnp.asarray(True))
