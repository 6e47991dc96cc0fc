"""How matrices lie in memory: the same is computed but for rounding, in less time on a CPU."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._core.types import PyTree

_FEW = 16  # outputs; more than fit a vector of 512 bits in float32


def turned(policy: PyTree) -> PyTree:
    """With the weights of `eqx.nn.Linear` transposed, of many outputs; twice, it is as it was.

    A small batch times a matrix that lies by inputs takes half the time, unless its outputs are
    few. So a loop over steps is given the turned one, and turns it back in its body, where that is
    no work: a rollout of four environments gains 1.1, and nothing from 64 on (`python -m benchmarks
    --only levers`). Those of `eqx.nn.GRUCell` took longer turned, and are left.
    """

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
    """The same; and what is transposed to it, the gradient of a matrix, is computed in that order.

    That of a first layer's weight, [64, 4], is found sooner as [4, 64]: an update of PPO gains 1.06
    to 1.1 (`python -m benchmarks --only levers`).
    """
    if tangent.ndim != 2 or tangent.shape[0] <= tangent.shape[1]:
        return tangent
    # Else the compiler would undo it.
    return lax.optimization_barrier(tangent.T).T
