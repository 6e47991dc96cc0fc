"""`KeepsStatistics` and `WithStatistics`: policies that keep running statistics of their inputs."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array, Key, PRNGKeyArray

from .._core.types import Policy, PyTree


class Steps(eqx.Module):
    """The inputs of a policy at B steps of a rollout, in no particular order."""

    observation: PyTree
    """What the policy saw, leaves `[B, …]`."""
    state: PyTree
    """The policy's state before each step; without leaves for a feed-forward policy."""
    key: Key[Array, "*B"]
    """The key of each step."""


@runtime_checkable
class KeepsStatistics(Policy, Protocol):
    """A policy with arrays that change between updates, but not by gradients.

    It has one method beside those of `rlscan.Policy`. The arrays that the method changes are marked
    as `rlscan.nn.NonTrainable`, and `__call__` never changes them. They are constant from the first
    step of a rollout to the last epoch over it, so the ratio begins at 1.
    """

    def move_statistics(self, steps: Steps, axis: str | None) -> Policy:
        """Update the statistics by B steps, and return the policy.

        On a mesh, each device calls it with its own steps, and `axis` is the name of the mesh's
        axis. The result must be equal on all devices, for example by `jax.lax.pmean`. On one device
        `axis` is `None`. A policy around another one updates that as well, by
        `rlscan.move_statistics(self.policy, steps, axis)` with the inputs of the inner policy.
        """
        ...


def refuse_nested(outer: Any, *, allowed: tuple[type, ...] = ()) -> None:
    """Raise `TypeError` if a module holds a policy with statistics that it would never update."""

    def is_one(node: Any) -> bool:
        return node is not outer and isinstance(node, KeepsStatistics)

    for path, node in tree_flatten_with_path(outer, is_leaf=is_one)[0]:
        if is_one(node) and not isinstance(node, allowed):
            name = type(outer).__name__
            raise TypeError(
                f"policy{keystr(path)} is a {type(node).__name__} inside of a {name}, so its "
                f"statistics would never move; make {type(node).__name__} the outermost module, or "
                f"give {name} a method move_statistics(steps, axis), see rlscan.nn.KeepsStatistics"
            )


class WithStatistics(eqx.Module):
    """A policy, or a part of one, made of a network that has an `eqx.nn.State`.

    Statistics of the current batch would make the ratio differ from 1 before any gradient step. So
    the layers that keep statistics (`eqx.nn.BatchNorm`, `eqx.nn.SpectralNorm`) use the running ones
    from the first step of a rollout to the last epoch over it, while dropout stays on. One pass
    over the rollout updates them afterwards. Like parameters, they are the same in all environments
    and are never reset; the optimiser does not change them.

    The network takes four arguments and returns four values. A `BatchNorm` needs `mode="batch"`,
    because `mode="ema"` has no statistics before its first batch.

    ```python
    class Network(eqx.Module):
        norm: eqx.nn.BatchNorm
        heads: eqx.nn.Linear

        def __init__(self, *, key):
            self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
            self.heads = eqx.nn.Linear(4, 3, key=key)

        def __call__(self, observation, state, statistics, *, key):
            hidden, statistics = self.norm(observation, statistics)
            output = self.heads(hidden)
            return distrax.Categorical(output[:2]), output[2], state, statistics

        def initial_state(self):
            return ()

    policy = rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Network)(key=rlscan.key(0)))
    ```

    Called as a policy, it returns the first three of the four values. Inside of a larger policy,
    such as in an encoder of your own, the first of them may be anything, and neither the state nor
    `initial_state` need mean anything; the trainer updates its statistics there, too.
    """

    network: Callable
    """A module with the methods of a policy, whose `__call__` also takes and returns the state:
    `(observation, state, statistics, *, key) -> (distribution, value, state, statistics)`."""
    statistics: eqx.nn.State
    """The running statistics of its layers, as `eqx.nn.make_with_state` makes them."""

    def __check_init__(self) -> None:
        for path, layer in stateful_layers(self.network):
            if isinstance(layer, eqx.nn.BatchNorm) and layer.mode == "ema":
                raise ValueError(
                    f"network{keystr(path)} is a BatchNorm(mode='ema'), which has no statistics "
                    "before its first batch, but a rollout needs them at once; use mode='batch'"
                )

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Any, Any, PyTree]:
        network = with_frozen_statistics(self.network)
        distribution, value, state, _ = network(observation, state, copy(self.statistics), key=key)
        return distribution, value, state

    def initial_state(self) -> PyTree:
        network: Any = self.network
        return network.initial_state()

    def move_statistics(self, steps: Steps, axis: str | None) -> "WithStatistics":
        """Update the statistics by one batch that holds all steps.

        It needs the whole batch on one device; `check_mesh` refuses this policy on a mesh.
        """
        return move_inside(self, steps)


class _Moving:
    """A stand-in for a `WithStatistics` that moves its statistics when it is called."""

    def __init__(self, frozen: WithStatistics):
        self.network: Any = frozen.network
        self.initial_state = frozen.initial_state
        self.statistics = frozen.statistics

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Any, Any, PyTree]:
        *result, self.statistics = self.network(observation, state, copy(self.statistics), key=key)
        distribution, value, state = result
        return distribution, value, state


def move_inside(policy: Any, steps: Steps) -> Any:
    """Move the statistics of each `WithStatistics` in a policy by one batch of all steps."""
    nodes, structure = jax.tree.flatten(policy, is_leaf=_is_frozen)
    networks = [node.network for node in nodes if _is_frozen(node)]
    for network in networks:
        refuse_nested(network)

    def one(observation: PyTree, state: PyTree, key: PRNGKeyArray) -> list[eqx.nn.State]:
        calls = [_Moving(node) if _is_frozen(node) else node for node in nodes]
        jax.tree.unflatten(structure, calls)(observation, state, key=key)
        return [node.statistics for node in calls if isinstance(node, _Moving)]

    batched = eqx.filter_vmap(one, out_axes=None, axis_name=_axis_name(networks))
    moved = iter(batched(steps.observation, steps.state, steps.key))
    after = [
        dataclasses.replace(node, statistics=next(moved)) if _is_frozen(node) else node
        for node in nodes
    ]
    return jax.tree.unflatten(structure, after)


def has_statistics(policy: Any) -> bool:
    """Whether there is a `WithStatistics` in a policy."""
    return any(map(_is_frozen, jax.tree.leaves(policy, is_leaf=_is_frozen)))


def _is_frozen(node: Any) -> bool:
    return isinstance(node, WithStatistics)


def stateful_layers(network: PyTree) -> list[tuple[Any, Any]]:
    """Find the layers that have an `eqx.nn.StateIndex` and a flag `inference`, nested ones too.

    **Returns:** a list of `(path, layer)`.
    """

    def is_stateful(node: Any) -> bool:
        return isinstance(node, eqx.Module) and hasattr(node, "inference") and has_index(node)

    def inside(path: tuple, node: PyTree) -> list[tuple[Any, Any]]:
        is_next = lambda x: x is not node and is_stateful(x)  # noqa: E731
        nodes, _ = tree_flatten_with_path(node, is_leaf=is_next)
        layers = [((*path, *below), layer) for below, layer in nodes if is_next(layer)]
        return [found for layer in layers for found in (layer, *inside(*layer))]

    return [(path[1:], layer) for path, layer in inside((), (network,))]


def with_frozen_statistics(network: PyTree) -> PyTree:
    """Switch the stateful layers to inference mode, and leave all others as they are."""
    flags = lambda tree: [layer.inference for _, layer in stateful_layers(tree)]  # noqa: E731
    return eqx.tree_at(flags, network, replace_fn=lambda _: True)


def copy(statistics: eqx.nn.State) -> eqx.nn.State:
    """A copy of the statistics, because `State.set` invalidates the object it is called on."""
    leaves, structure = jax.tree.flatten(statistics)
    return jax.tree.unflatten(structure, leaves)


def has_index(node: Any) -> bool:
    """Whether a field of a module is or contains an `eqx.nn.StateIndex`, outside of submodules."""

    def is_module(x: Any) -> bool:
        return isinstance(x, eqx.Module)

    leaves = jax.tree.leaves(vars(node), is_leaf=is_module)
    return any(isinstance(leaf, eqx.nn.StateIndex) for leaf in leaves)


def _axis_name(network: Any) -> Any:
    """The name that the layers give to the batch axis. They must agree, as there is one batch."""
    names = {
        keystr(path): vars(layer)["axis_name"]
        for path, layer in stateful_layers(network)
        if "axis_name" in vars(layer)
    }
    if len(set(names.values())) > 1:
        raise ValueError(
            f"the layers of a policy must use the same name for the batch axis, got {names}; "
            "give them one axis_name"
        )
    return next(iter(names.values()), None)
