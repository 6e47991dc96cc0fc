"""Lever: only those slots of final observations that are in use are evaluated.

Without a declared time limit there is a slot for each step, and most of them are unused. `python -m
benchmarks --only levers` compares this with evaluating all.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from .._core.tree import clone_keys, map_arrays
from .._core.types import Policy, PyTree
from .state import FinalObservations

_MOST_BATCHES = 16


def over_used_slots(
    fill: Callable, policy: Policy, after: PyTree, final: FinalObservations
) -> PyTree:
    """Compute `fill(policy, after, final)`, which puts the values of slots into `after`."""
    if len(final.step) == 1:
        return fill(policy, after, final)
    return _in_batches(policy, after, final, fill=fill)


@eqx.filter_custom_jvp
def _in_batches(
    policy: Policy, after: PyTree, final: FinalObservations, *, fill: Callable
) -> PyTree:
    """Fill from the used slots, one batch of them per iteration of a loop.

    A loop rather than a `cond`, because a `vmap` over seeds would compute both branches; and few
    batches, because each costs the start of its kernels.
    """
    used = final.step < len(jax.tree.leaves(after)[0])
    num_slots, num_envs = used.shape
    environments = jnp.arange(num_envs)
    # Put each environment's used slots first and pad with its slot 0, which is dropped if unused
    # and otherwise written twice with the same value.
    rank = jnp.where(used, jnp.cumsum(used, axis=0) - 1, num_slots)
    slots = jnp.broadcast_to(jnp.arange(num_slots)[:, None], used.shape)
    order = jnp.zeros_like(slots).at[rank, environments].set(slots, mode="drop")
    length = math.ceil(num_slots / _MOST_BATCHES)

    def batch(i: Int[Array, ""], after: PyTree) -> PyTree:
        which = lax.dynamic_slice_in_dim(order, i * length, length)
        some = map_arrays(lambda x: x[which, environments], clone_keys(final))
        return fill(policy, after, some)

    most_used = used.sum(axis=0).max()
    return lax.fori_loop(0, -(-most_used // length), batch, after)


@_in_batches.def_jvp
def _differentiated(primals: tuple, tangents: tuple, *, fill: Callable) -> tuple[PyTree, PyTree]:
    """Differentiate `fill` itself: a loop with a traced bound has no reverse-mode gradient."""
    return eqx.filter_jvp(fill, primals, tangents)
