"""How matrices lie in memory: what is computed is the same, and on a CPU it takes less time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ._types import PyTree

_LANES = 16  # numbers in a vector of 512 bits


def turned(policy: PyTree) -> PyTree:
    """With the weights of `eqx.nn.Linear` transposed, of many outputs; twice, it is as it was.

    A small batch times a matrix that lies by inputs takes half the time, unless its outputs fill
    less than a vector. So a loop over steps is given the turned one, and turns it back in its body,
    where that is no work: a rollout of four environments gains 1.2, and nothing from 64 on
    (`python -m benchmarks --only levers`).
    """

    def one(node: object) -> object:
        if not _is_wide(node):
            return node
        return eqx.tree_at(lambda layer: layer.weight, node, replace_fn=jnp.transpose)

    return jax.tree.map(one, policy, is_leaf=_is_wide)


def _is_wide(node: object) -> bool:
    match node:
        case eqx.nn.Linear(weight=jax.Array(ndim=2), out_features=int(outputs)):
            return outputs > _LANES
    return False


def shorter_axis_first(tangent: Array) -> Array:
    """The same; and what is transposed to it, the gradient of a matrix, is computed in that order.

    The gradient of the weight [64, 4] of a first layer takes a third of the time as [4, 64], from
    128 steps, and a seventh from 2,048; that of [1024, 128] half.
    """
    if tangent.ndim != 2 or tangent.shape[0] <= tangent.shape[1]:
        return tangent
    # Else the compiler would undo it.
    return lax.optimization_barrier(tangent.T).T
