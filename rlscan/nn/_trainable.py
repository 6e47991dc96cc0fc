"""`partition_trainable`: the arrays that the optimiser changes, and the rest of a policy."""

from typing import Any

import equinox as eqx
import jax

from .._core.types import PyTree


class NonTrainable(eqx.Module):
    """A marker around arrays that no gradient step may change, such as a dropout rate.

    The arrays stay leaves. A new value compiles nothing again, and they can be scanned, vmapped and
    saved like any others.
    """

    value: PyTree
    """The arrays, in any pytree."""


def partition_trainable(policy: PyTree) -> tuple[PyTree, PyTree]:
    """Split a policy into the floating-point arrays that an optimiser changes, and the rest.

    Arrays marked as `NonTrainable` and the statistics in an `eqx.nn.State` belong to the rest.

    **Returns:** `(params, rest)`; `eqx.combine(params, rest)` is the policy again.

    **Example:** a gradient step in a training loop of your own.

    ```python
    params, rest = rlscan.nn.partition_trainable(policy)
    grads = jax.grad(lambda params: loss(eqx.combine(params, rest)))(params)
    updates, opt_state = optimiser.update(grads, opt_state, params)
    policy = eqx.combine(optax.apply_updates(params, updates), rest)
    ```

    Gradients of complex parameters must be conjugated first, `jax.tree.map(jnp.conj, grads)`: JAX
    returns ∂/∂x − i ∂/∂y for x + iy. `rlscan.ppo.update` does so.
    """
    spec = jax.tree.map(
        lambda node: not _is_fixed(node) and eqx.is_inexact_array(node), policy, is_leaf=_is_fixed
    )
    return eqx.partition(policy, spec)


def _is_fixed(node: Any) -> bool:
    return isinstance(node, NonTrainable | eqx.nn.State)
