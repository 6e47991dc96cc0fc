"""`next_value`: what a policy expects of where each step led, before any reset."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key

from .._core.tree import map_arrays, unused, where
from .._core.types import Policy, PyTree
from .state import FinalObservations, RolloutState, Trajectory


def next_value(
    policy: Policy, state: RolloutState, trajectory: Trajectory, value: PyTree
) -> PyTree:
    """V of what followed each step, before any reset.

    At a truncated step that is the value of the final observation, with the recurrent state after
    the step and the key of that step; anywhere else the value recorded for the next step. At a
    terminated step nothing followed, and what stands there must not be used.

    Where an environment may be truncated several times, as many final observations are evaluated as
    there are; but all of their slots where a gradient is taken, so stop that of `policy` and
    `value`, not of the result.

    **Arguments:**

    - `policy`: the policy that acted.
    - `state`: from `rollout`: what the last step led to.
    - `trajectory`: from the same `rollout`.
    - `value`: `[T, N, …]`, from `replay(policy, trajectory)`.

    **Returns:** `[T, N, …]`. NaN, rather than a wrong value, where an environment was truncated
    twice within its declared `time_limit`, so that a final observation is lost.

    Source: Pardo et al., *Time Limits in Reinforcement Learning*, 2018, arXiv:1712.00378.
    """
    if not jax.tree.leaves(value):  # of a policy without any
        return value
    last = _values(policy, state.observation, state.policy_state, state.policy_key)
    after = jax.tree.map(lambda v, end: jnp.concatenate([v[1:], end[None]]), value, last)
    truncated = trajectory.truncated & ~trajectory.terminated
    after = jax.tree.map(lambda x: where(truncated, jnp.full_like(x, jnp.nan), x), after)
    final = trajectory.final
    assert final is not None, "a trajectory from `rollout` has its final observations"
    fill = _fill if len(final.step) == 1 else _fill_used
    return fill(policy, after, final)


def _values(policy: Policy, observation: PyTree, state: PyTree, key: Key[Array, " N"]) -> PyTree:
    def one(observation: PyTree, state: PyTree, key: Key[Array, ""]) -> PyTree:
        return policy(observation, state, key=jax.random.clone(key))[1]

    return eqx.filter_vmap(one)(observation, state, key)


def _fill(policy: Policy, after: PyTree, final: FinalObservations) -> PyTree:
    """`after`, `[T, N, …]`, with the values of final observations where they were seen."""
    seen = (final.observation, final.policy_state, final.policy_key)
    values = eqx.filter_vmap(partial(_values, policy))(*seen)
    environments = jnp.arange(final.step.shape[1])
    # The step of a slot that is not in use is T, and dropped.
    put = lambda x, value: x.at[final.step, environments].set(value, mode="drop")  # noqa: E731
    return jax.tree.map(put, after, values)


_MOST_BATCHES = 16


@eqx.filter_custom_jvp
def _fill_used(policy: Policy, after: PyTree, final: FinalObservations) -> PyTree:
    """The same, of those slots alone that are in use, a batch of each environment's at a time.

    In a loop, not under a condition, of which a `vmap` over seeds computes both branches; and of
    few batches, as each costs the start of its kernels. Where no time limit is declared there is a
    slot for each step. What is gained then, where episodes are cut seldom or often, says `python -m
    benchmarks --only levers`.
    """
    used = final.step < len(jax.tree.leaves(after)[0])
    num_slots, num_envs = used.shape
    environments = jnp.arange(num_envs)
    # Of each environment those in use first; its first slot once more in the place of the others,
    # which is dropped if it is not in use, and else changes nothing.
    rank = jnp.where(used, jnp.cumsum(used, axis=0) - 1, num_slots)
    slots = jnp.broadcast_to(jnp.arange(num_slots)[:, None], used.shape)
    order = jnp.zeros_like(slots).at[rank, environments].set(slots, mode="drop")
    length = math.ceil(num_slots / _MOST_BATCHES)

    def batch(i: Int[Array, ""], after: PyTree) -> PyTree:
        which = lax.dynamic_slice_in_dim(order, i * length, length)
        some = map_arrays(lambda x: x[which, environments], unused(final))
        return _fill(policy, after, some)

    most_used = used.sum(axis=0).max()
    return lax.fori_loop(0, -(-most_used // length), batch, after)


@_fill_used.def_jvp
def _differentiated(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    """A loop of a number that is data has no gradient backward: of all slots."""
    return eqx.filter_jvp(_fill, primals, tangents)
