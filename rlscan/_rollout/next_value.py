"""`next_value`: the value of what followed each step, before any reset."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from .._core.nan import nan_or
from .._core.roles import require_policy
from .._core.tree import where
from .._core.types import Policy, PyTree
from .state import FinalObservations, RolloutState, Trajectory
from .used_slots import over_used_slots


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

    **Returns:** `[T, N, …]`. NaN (−∞ under `jax_debug_nans`), rather than a wrong value, if an
    environment was truncated twice within its declared `time_limit`, or more often than its
    declared `final_slots`, because then a final observation is lost.

    Source: Pardo et al., *Time Limits in Reinforcement Learning*, 2018, arXiv:1712.00378.
    """
    require_policy(policy)
    if not jax.tree.leaves(value):  # the policy has no values
        return value
    last = _values(policy, state.observation, state.policy_state, state.policy_key)
    after = jax.tree.map(lambda v, end: jnp.concatenate([v[1:], end[None]]), value, last)
    truncated = trajectory.truncated & ~trajectory.terminated
    lost = nan_or(-math.inf)  # until a final observation is found
    after = jax.tree.map(lambda x: where(truncated, jnp.full_like(x, lost), x), after)
    final = trajectory.final
    assert final is not None, "a trajectory from `rollout` has its final observations"
    return over_used_slots(_fill, policy, after, final)


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
