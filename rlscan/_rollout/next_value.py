"""`next_value`: the value of what followed each step, before any reset."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key

from .._core.tree import clone_keys, map_arrays, where
from .._core.types import Policy, PyTree
from .state import FinalObservations, RolloutState, Trajectory


def next_value(
    policy: Policy, state: RolloutState, trajectory: Trajectory, value: PyTree
) -> PyTree:
    """The value of what followed each step, before any reset.

    At a truncated step it is the value of the final observation, computed with the recurrent state
    after the step and the key of that step. Elsewhere it is the value recorded for the next step.
    Nothing followed a terminated step, and its entry must not be used.

    If an environment may be truncated several times, only the final observations in use are
    evaluated. Under a gradient all slots are evaluated: stop the gradient of `policy` and `value`
    rather than that of the result.

    **Arguments:**

    - `policy`: the policy that acted.
    - `state`: from `rollout`, the state after the last step.
    - `trajectory`: from the same `rollout`.
    - `value`: `[T, N, …]`, from `replay(policy, trajectory)`.

    **Returns:** `[T, N, …]`. NaN, rather than a wrong value, if an environment was truncated twice
    within its declared `time_limit`, because then a final observation is lost.

    Source: Pardo et al., *Time Limits in Reinforcement Learning*, 2018, arXiv:1712.00378.
    """
    if not jax.tree.leaves(value):  # the policy has no values
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
    """Put the values of final observations into `after`, `[T, N, …]`, at their steps."""
    seen = (final.observation, final.policy_state, final.policy_key)
    values = eqx.filter_vmap(partial(_values, policy))(*seen)
    environments = jnp.arange(final.step.shape[1])
    # The step of an unused slot is T, which is out of bounds and dropped.
    put = lambda x, value: x.at[final.step, environments].set(value, mode="drop")  # noqa: E731
    return jax.tree.map(put, after, values)


_MOST_BATCHES = 16


@eqx.filter_custom_jvp
def _fill_used(policy: Policy, after: PyTree, final: FinalObservations) -> PyTree:
    """Like `_fill`, but evaluate only the slots in use, one batch per iteration of a loop.

    A loop rather than a `cond`, because a `vmap` over seeds would compute both branches; and few
    batches, because each costs the start of its kernels. Without a declared time limit there is a
    slot for each step, and most are unused (`python -m benchmarks --only levers` compares).
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
        return _fill(policy, after, some)

    most_used = used.sum(axis=0).max()
    return lax.fori_loop(0, -(-most_used // length), batch, after)


@_fill_used.def_jvp
def _differentiated(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    """Differentiate `_fill`: a loop with a traced bound has no reverse-mode gradient."""
    return eqx.filter_jvp(_fill, primals, tangents)
