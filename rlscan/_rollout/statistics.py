"""`move_statistics`: update a policy's running statistics after a rollout."""

from .._core.mesh import mesh_axis
from .._core.tree import map_arrays
from .._core.types import Policy
from ..nn._statistics import (
    KeepsStatistics,
    Steps,
    WithStatistics,
    has_statistics,
    move_inside,
    refuse_nested,
)
from .replay import policy_states
from .state import Trajectory


def move_statistics(policy: Policy, steps: Trajectory | Steps, axis: str | None = None) -> Policy:
    """Update the running statistics of a policy with the steps of a rollout.

    The trainer calls it after the last epoch of an update. A policy that is neither a
    `rlscan.nn.KeepsStatistics` nor holds a `rlscan.nn.WithStatistics` is returned as it is.

    **Arguments:**

    - `policy`: the policy after the epochs.
    - `steps`: the trajectory from `rollout`, `[T, N, …]`; or, in a policy that wraps another one,
        the inputs of the inner policy.
    - `axis`: the axis of the mesh whose devices each hold a part of the steps; by default that of
        the mesh this is traced on, if any.

    **Raises:** `TypeError` if a module inside the policy has statistics that nothing would move.
    """
    if isinstance(policy, KeepsStatistics):
        return policy.move_statistics(_steps(policy, steps), mesh_axis() if axis is None else axis)
    refuse_nested(policy, allowed=(WithStatistics,))
    return move_inside(policy, _steps(policy, steps)) if has_statistics(policy) else policy


def _steps(policy: Policy, steps: Trajectory | Steps) -> Steps:
    if isinstance(steps, Steps):
        return steps
    # Recomputes the states of a recurrent policy. The compiler drops whatever no statistic reads.
    inputs = Steps(steps.observation, policy_states(policy, steps), steps.policy_key)
    return map_arrays(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), inputs)
