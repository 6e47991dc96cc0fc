"""What the optimiser moves, and what it must not see."""

from typing import Any

import equinox as eqx
import jax

from .._core.types import PyTree


class NonTrainable(eqx.Module):
    """A marker around arrays that no gradient step may move, such as a dropout rate.

    They stay leaves: another value compiles nothing anew, and they scan, vmap and save as any.
    """

    value: PyTree


def partition_trainable(policy: PyTree) -> tuple[PyTree, PyTree]:
    """`(params, rest)`: the floating-point arrays that an optimiser moves, and all else.

    What is marked as `NonTrainable`, and the statistics in an `eqx.nn.State`, are in `rest`.
    `eqx.combine(params, rest)` is the policy again. For a training loop of one's own:

    ```python
    params, rest = rlscan.partition_trainable(policy)
    grads = jax.grad(lambda params: loss(eqx.combine(params, rest)))(params)
    updates, opt_state = optimiser.update(grads, opt_state, params)
    policy = eqx.combine(optax.apply_updates(params, updates), rest)
    ```
    """
    spec = jax.tree.map(
        lambda node: not _is_fixed(node) and eqx.is_inexact_array(node), policy, is_leaf=_is_fixed
    )
    return eqx.partition(policy, spec)


def _is_fixed(node: Any) -> bool:
    return isinstance(node, NonTrainable | eqx.nn.State)
