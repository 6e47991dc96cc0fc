"""`KeepsStatistics`: what a policy has that keeps running statistics of what it sees."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array, Key, PRNGKeyArray

from .._core.types import Distribution, Policy, PyTree


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


class WithStatistics(eqx.Module):
    """A network with an `eqx.nn.State`, as a policy by the contract of `rlscan.Policy`.

    Statistics of a batch make the ratio differ from 1 before any step is taken. So the layers
    that keep statistics (`eqx.nn.BatchNorm`, `eqx.nn.SpectralNorm`) use the running ones from the
    first step of a rollout to the last epoch over it, while dropout stays on, and one pass over
    the rollout moves them afterwards. Like parameters they are the same in all environments, and
    no reset touches them; the optimiser does not see them.

    ```python
    policy = rlscan.WithStatistics(*eqx.nn.make_with_state(Network)(key=rlscan.key(0)))
    ```
    """

    network: Callable
    """`(observation, state, statistics, *, key) -> (distribution, value, state, statistics)`, with
    a method `initial_state()`: the contract of a policy, and an `eqx.nn.State` handed through."""
    statistics: eqx.nn.State

    def __check_init__(self) -> None:
        for path, layer in stateful_layers(self.network):
            if isinstance(layer, eqx.nn.BatchNorm) and layer.mode == "ema":
                raise ValueError(
                    f"network{keystr(path)} is a BatchNorm(mode='ema'), which has no statistics "
                    "before its first batch, and rlscan acts before it learns; use mode='batch'"
                )

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any, PyTree]:
        network = with_frozen_statistics(self.network)
        distribution, value, state, _ = network(observation, state, copy(self.statistics), key=key)
        return distribution, value, state

    def initial_state(self) -> PyTree:
        network: Any = self.network
        return network.initial_state()

    def move_statistics(self, steps: Steps, axis: str | None) -> "WithStatistics":
        """By one batch, all the steps; `check_mesh` has refused a mesh, of which each device has a
        part of it."""
        refuse_nested(self.network)

        def one(observation: PyTree, state: PyTree, key: PRNGKeyArray) -> eqx.nn.State:
            return self.network(observation, state, copy(self.statistics), key=key)[3]

        batched = eqx.filter_vmap(one, out_axes=None, axis_name=_axis_name(self.network))
        moved = batched(steps.observation, steps.state, steps.key)
        return dataclasses.replace(self, statistics=moved)


def stateful_layers(network: PyTree) -> list[tuple[Any, Any]]:
    """`(path, layer)` of each layer that has an `eqx.nn.StateIndex` and a flag `inference`; a layer
    may stand inside of another."""

    def is_stateful(node: Any) -> bool:
        return isinstance(node, eqx.Module) and hasattr(node, "inference") and has_index(node)

    def inside(path: tuple, node: PyTree) -> list[tuple[Any, Any]]:
        is_next = lambda x: x is not node and is_stateful(x)  # noqa: E731
        nodes, _ = tree_flatten_with_path(node, is_leaf=is_next)
        layers = [((*path, *below), layer) for below, layer in nodes if is_next(layer)]
        return [found for layer in layers for found in (layer, *inside(*layer))]

    return [(path[1:], layer) for path, layer in inside((), (network,))]


def with_frozen_statistics(network: PyTree) -> PyTree:
    """The network with its stateful layers in inference mode, and no other."""
    flags = lambda tree: [layer.inference for _, layer in stateful_layers(tree)]  # noqa: E731
    return eqx.tree_at(flags, network, replace_fn=lambda _: True)


def copy(statistics: eqx.nn.State) -> eqx.nn.State:
    """The same statistics: `State.set` makes the object that it is called on useless."""
    leaves, structure = jax.tree.flatten(statistics)
    return jax.tree.unflatten(structure, leaves)


def has_index(node: Any) -> bool:
    """Whether a module has an `eqx.nn.StateIndex`, in a field or in a list, tuple or dict there."""

    def is_module(x: Any) -> bool:
        return isinstance(x, eqx.Module)

    leaves = jax.tree.leaves(vars(node), is_leaf=is_module)
    return any(isinstance(leaf, eqx.nn.StateIndex) for leaf in leaves)


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
