"""The sentinel: what is watched for numbers that are not finite, inside of an update."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._core.mesh import max_over
from .._core.tree import where
from .._core.types import PyTree


class Divergence(eqx.Module):
    """Where a run met a number that is not finite, if it did."""

    update: Int[Array, ""]  # of the run, from 1; 0 as long as all was finite
    minibatch: Int[Array, ""]  # of that update, from 1 over all its epochs; 0: already its rollout


class DivergenceError(RuntimeError):
    """A number of training is no longer finite: there is nothing more to learn."""


def place_of(divergence: Divergence) -> str:
    """`update 3, minibatch 2`."""
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
    """That of this update, unless there was one before.

    **Arguments:** what is finite of it, in the order in which it came about: `rollout`, `steps`,
    and the `statistics` that move after the last of them, and are counted with it.
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
    """Whether all numbers of a gradient step are.

    The norm stands for the gradient. It is there already; and a gradient whose norm overflows is
    clipped to 0, or to NaN.
    """
    return jnp.isfinite(loss) & jnp.isfinite(grad_norm) & all_finite(params)


def which_are_finite(
    loss: Float[Array, ""], grads: PyTree, grad_norm: Float[Array, ""], params: PyTree
) -> dict[str, PyTree]:
    """Of a gradient step, leaf by leaf: what `rlscan.explain_divergence` reads."""
    each = lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)  # noqa: E731
    return {"gradient": each(grads), "parameter": each(params)}


def all_finite(tree: PyTree, axis: str | None = None) -> Bool[Array, ""]:
    """Of arrays of floats, on all devices of the axis."""
    # By `isfinite` and not by a sum, which may overflow, and which no compiler may reorder.
    finite = every([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])
    return finite if axis is None else max_over(axis, (~finite).astype(jnp.int32)) == 0


def stay_finite(before: PyTree, after: PyTree) -> PyTree:
    """Leaf by leaf, whether all floats that were finite still are: constants may be infinite."""
    before, after = (eqx.filter(tree, eqx.is_inexact_array) for tree in (before, after))
    return jax.tree.map(lambda x, y: (jnp.isfinite(y) | ~jnp.isfinite(x)).all(), before, after)


def every(conditions: PyTree) -> Bool[Array, ""]:
    return reduce(jnp.logical_and, jax.tree.leaves(conditions), jnp.asarray(True))
