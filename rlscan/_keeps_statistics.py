"""`KeepsStatistics`: what a policy has that keeps running statistics of what it sees."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array, Key

from ._types import Policy, PyTree


class Steps(eqx.Module):
    """What a policy was called with at B steps of a rollout, in no order."""

    # Every leaf is [B, …].
    observation: PyTree
    state: PyTree  # before the step; no leaves for a feed-forward policy
    key: Key[Array, "*B"]


@runtime_checkable
class KeepsStatistics(Policy, Protocol):
    """A policy whose arrays move between updates otherwise than by gradients.

    Beside the contract of `rlscan.Policy` it has one method. What the method moves is marked as
    `rlscan.NonTrainable`, and is constant in `__call__`: so it stands still from the first step of
    a rollout to the last epoch over it, and the ratio begins at 1.
    """

    def move_statistics(self, steps: Steps, axis: str | None) -> Policy:
        """The policy with its statistics moved by B steps.

        On a mesh each device calls it with its own steps, and `axis` is the mesh's: what comes
        out must be equal on all, such as by `jax.lax.pmean`. It is `None` for one device. A
        policy around another one also moves that: `rlscan.move_statistics(self.policy, steps,
        axis)`, with the steps as the inner one saw them.
        """
        ...


def refuse_nested(outer: Any) -> None:
    """Raises `TypeError` for statistics inside of a module that does not move them."""

    def is_one(node: Any) -> bool:
        return node is not outer and isinstance(node, KeepsStatistics)

    for path, node in tree_flatten_with_path(outer, is_leaf=is_one)[0]:
        if is_one(node):
            name = type(outer).__name__
            raise TypeError(
                f"policy{keystr(path)} is a {type(node).__name__} inside of a {name}, so its "
                f"statistics would never move; make {type(node).__name__} the outermost module, or "
                f"give {name} a method move_statistics(steps, axis), see rlscan.KeepsStatistics"
            )
