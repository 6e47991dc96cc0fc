"""`move_statistics`: what a policy's running statistics are after a rollout."""

from .._core.tree import map_arrays
from .._core.types import Policy
from ..nn._statistics import KeepsStatistics, Steps, refuse_nested
from .replay import policy_states
from .state import Trajectory


def move_statistics(policy: Policy, steps: Trajectory | Steps, axis: str | None = None) -> Policy:
    """The policy with its running statistics moved by the steps of a rollout.

    The trainer calls it after the last epoch of an update. A policy that is no
    `rlscan.KeepsStatistics` is returned as it is.

    **Arguments:**

    - `policy`: the policy after the epochs.
    - `steps`: the trajectory from `rollout`, `[T, N, …]`; or, from a policy around this one, what
        this one was called with.
    - `axis`: of the mesh whose devices have a part of the steps each; `None` for one device.

    **Raises:** `TypeError` for a policy with statistics inside of one that does not move them.
    """
    if not isinstance(policy, KeepsStatistics):
        refuse_nested(policy)
        return policy
    return policy.move_statistics(_steps(policy, steps), axis)


def _steps(policy: Policy, steps: Trajectory | Steps) -> Steps:
    if isinstance(steps, Steps):
        return steps
    # The states of a recurrent policy are computed again; the compiler leaves out what no
    # statistics are taken of.
    seen = Steps(steps.observation, policy_states(policy, steps), steps.policy_key)
    return map_arrays(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)
