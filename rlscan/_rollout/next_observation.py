"""`next_observation`: the observation after each step, before any reset."""

import math

import jax.numpy as jnp
from jaxtyping import Array

from .._core.nan import nan_or
from .._core.tree import map_arrays, where
from .._core.types import PyTree
from .state import RolloutState, Trajectory


def next_observation(state: RolloutState, trajectory: Trajectory) -> PyTree:
    """The observation after each step, before any reset: the next one of a replay buffer.

    | after step t | entry t |
    |---|---|
    | the episode goes on | the observation of step t + 1, or of `state` after the last step |
    | it was truncated, and not terminated | the final observation of the episode |
    | it was terminated | the first observation of the next episode |

    The final observation of a terminated episode is not stored, because nothing is bootstrapped
    from it: r + γ (1 − terminated) max Q(next observation) does not read that entry. A loss that
    does, such as that of a model of the dynamics, must leave out the steps with
    `trajectory.terminated`.

    **Arguments:**

    - `state`: from `rollout`, the state after the last step.
    - `trajectory`: from the same `rollout`, whole in time.

    **Returns:** `[T, N, …]`, in the structure and the dtypes of `trajectory.observation`. If an
    environment was truncated twice within its declared `time_limit`, or more often than its
    declared `final_slots`, a final observation is lost.
    Its floating-point entries are NaN (−∞ under `jax_debug_nans`), its others 0.

    **Raises:** `ValueError` for a trajectory without its final observations.
    """
    final = trajectory.final
    if final is None:
        raise ValueError(
            "a trajectory must have its final observations, as `rollout` returns it, got one with "
            "final=None, which is a part that is only replayed; take the next observations before "
            "the trajectory is cut into minibatches"
        )
    truncated = trajectory.truncated & ~trajectory.terminated
    environments = jnp.arange(truncated.shape[1])

    def one(rows: Array, end: Array, finals: Array) -> Array:
        after = jnp.concatenate([rows[1:], end[None]])
        is_float = jnp.issubdtype(rows.dtype, jnp.inexact)
        lost = jnp.full_like(rows, nan_or(-math.inf) if is_float else 0)  # until it is found
        # The step of an unused slot is T, which is out of bounds and dropped.
        after = where(truncated, lost, after)
        return after.at[final.step, environments].set(finals, mode="drop")

    return map_arrays(one, trajectory.observation, state.observation, final.observation)
