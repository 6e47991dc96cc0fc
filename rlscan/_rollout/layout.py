"""Levers: matrix layouts that are faster on a CPU. Results differ by rounding at most.

`python -m benchmarks --only levers` measures both.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._core.types import PyTree

_FEW = 16  # outputs; more than one 512-bit vector of float32 holds


def stored_input_major(policy: PyTree) -> Callable[[], PyTree]:
    """Store the weights of `eqx.nn.Linear` input-major, for a loop that multiplies small batches.

    For small batches, multiplying by a weight stored input-major is about twice as fast, unless it
    has few outputs. The weights are transposed once here, and transposed back in the body of the
    loop, where the compiler folds the transposition into the product.

    Weights of `eqx.nn.GRUCell` are left alone: they are slower this way. With jaxlib 0.11 XLA
    multiplies by YNNPACK, and undoes the transposition.

    **Returns:** a function that gives the policy back; call it in the body of the loop.
    """
    stored = _transposed(policy)
    return lambda: _transposed(stored)


def _transposed(policy: PyTree) -> PyTree:
    def one(node: object) -> object:
        if not _is_wide(node):
            return node
        return eqx.tree_at(lambda layer: layer.weight, node, replace_fn=jnp.transpose)

    return jax.tree.map(one, policy, is_leaf=_is_wide)


def _is_wide(node: object) -> bool:
    if type(node) is not eqx.nn.Linear:  # a subclass may compute its weight
        return False
    match node.weight, node.out_features:
        case jax.Array(ndim=2), int(outputs):
            return outputs > _FEW
    return False


def shorter_axis_first(tangent: Array) -> Array:
    """Return a tangent unchanged, but have its transpose, the gradient, computed short axis first.

    XLA computes the gradient of a tall weight, such as a first layer's [64, 4], faster as [4, 64].
    """
    if tangent.ndim != 2 or tangent.shape[0] <= tangent.shape[1]:
        return tangent
    # Without a barrier the compiler would cancel the two transpositions.
    return lax.optimization_barrier(tangent.T).T
