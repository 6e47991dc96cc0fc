"""`move_statistics`: what a policy's running statistics are after a rollout."""

import dataclasses
from typing import Any

import equinox as eqx
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import PRNGKeyArray

from ._pytree import map_arrays
from ._replay import policy_states
from ._rollout import Trajectory
from ._types import Policy, PyTree
from ._with_statistics import WithStatistics, copy, stateful_layers


def move_statistics(policy: Policy, trajectory: Trajectory) -> Policy:
    """The policy with its running statistics moved by one batch: all steps of the trajectory.

    The trainer calls it after the last epoch of an update. Policies that are no
    `rlscan.WithStatistics` are returned as they are.

    **Arguments:**

    - `policy`: the policy after the epochs.
    - `trajectory`: from `rollout`, `[T, N, …]`.

    **Raises:** `TypeError` for a `WithStatistics` inside of another policy, whose statistics would
    never move.
    """
    if not isinstance(policy, WithStatistics):
        _refuse_nested(policy)
        return policy
    network = policy.network

    def one(observation: PyTree, state: PyTree, key: PRNGKeyArray) -> eqx.nn.State:
        return network(observation, state, copy(policy.statistics), key=key)[3]

    steps = trajectory.observation, policy_states(policy, trajectory), trajectory.policy_key
    flat = map_arrays(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps)
    batched = eqx.filter_vmap(one, out_axes=None, axis_name=_axis_name(network))
    return dataclasses.replace(policy, statistics=batched(*flat))


def _axis_name(network: Any) -> Any:
    """The name that the layers give to the batch; they must agree, as there is one batch."""
    names = {
        keystr(path): vars(layer)["axis_name"]
        for path, layer in stateful_layers(network)
        if "axis_name" in vars(layer)
    }
    if len(set(names.values())) > 1:
        raise ValueError(
            f"the layers of a policy must name the batch alike, got {names}; "
            "give them one axis_name"
        )
    return next(iter(names.values()), None)


def _refuse_nested(policy: Any) -> None:
    is_one = lambda node: isinstance(node, WithStatistics)  # noqa: E731
    for path, node in tree_flatten_with_path(policy, is_leaf=is_one)[0]:
        if is_one(node):
            raise TypeError(
                f"policy{keystr(path)} is a WithStatistics inside of a {type(policy).__name__}, "
                "so its statistics would never move; make WithStatistics the outermost module"
            )
