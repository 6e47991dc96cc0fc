"""A mesh of one axis: the environments, or whatever else is mapped over, split over devices.

A function that runs on a mesh is written once, for one device. `sharded` traces it for each
device's part, and inside it the exchanges below (`mean_over_devices` and its neighbours) find the
mesh's axis by themselves. Outside a mesh they return what they are given.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from .tree import ArrayFunction, is_shape, map_arrays
from .types import PyTree

AXIS = "rlscan_envs"

# What a device holds: a whole array, or its part of the first or second axis.
WHOLE, FIRST, SECOND = PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of one axis, for the `mesh` of `rlscan.rollout`, `rlscan.train` and their kin.

    The cores of a CPU are one device unless JAX is told otherwise before it first runs:
    `rlscan.configure_cpu(num_devices=2)`.

    **Arguments:**

    - `num_devices`: the number of devices, taken from the front of `jax.devices()`; all by
        default.

    **Raises:** `ValueError` if there are fewer.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        hint = f"rlscan.configure_cpu(num_devices={num_devices}) before JAX first runs"
        raise ValueError(
            f"num_devices must be from 1 to {len(devices)}, the devices that JAX has, got "
            f"{num_devices}" + (f"; to split a CPU: {hint}" if devices[0].platform == "cpu" else "")
        )
    return Mesh(np.array(devices[:num_devices]), (AXIS,), axis_types=(AxisType.Auto,))


def on_devices(f: Callable, mesh: Mesh) -> Callable:
    """Split the arguments of `f` over devices along their first axes, and join its results.

    For functions that are mapped over and exchange nothing, such as training several seeds:
    `on_devices(jax.vmap(train_one), mesh)(jax.random.split(key, 32))` trains 16 on each of two.

    **Arguments:**

    - `f`: a function of pytrees; the mapped axis is the first of every array it takes or returns.
    - `mesh`: from `make_mesh`.

    **Raises:** `ValueError`, when the new function is called, if the number of devices does not
    divide an axis.
    """

    def split(*arguments: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(eqx.filter(arguments, eqx.is_array)):
            if leaf.ndim == 0:
                raise ValueError(
                    f"each array that is split over devices must have a first axis, got a scalar "
                    f"{leaf.dtype}; close over it if it is the same on all devices"
                )
            require_divisible(mesh, "the first axis of each argument", leaf.shape[0])
        # An axis of another name, so that nothing inside exchanges with other devices.
        apart = Mesh(mesh.devices, ("mapped",), axis_types=mesh.axis_types)
        first = PartitionSpec("mapped")
        return sharded(f, apart, (first,) * len(arguments), first)(*arguments)

    return split


def sharded(f: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    """`jax.shard_map` for pytrees whose other leaves stay as they are."""

    def call(*arguments: PyTree) -> PyTree:
        function = ArrayFunction(f, arguments)
        # JAX's check of what is equal on all devices cannot follow random keys.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        return function.merge(mapped(*function.arrays))

    return call


def place(tree: PyTree, mesh: Mesh | None, specs: PyTree) -> PyTree:
    """Put a tree's arrays where a program on the mesh expects them, so that it compiles once.

    A `jax.ShapeDtypeStruct` in the place of an array gets the same sharding.
    """
    if mesh is None:
        return tree

    def one(x: Any, spec: Any) -> Any:
        if not is_shape(x):
            return x
        sharding = NamedSharding(mesh, spec)
        return jax.device_put(x, sharding) if eqx.is_array(x) else x.update(sharding=sharding)

    return jax.tree.map(one, tree, specs)


def are_divided(
    num_devices: int, *, num_envs: int, num_steps: int, num_minibatches: int, recurrent: bool
) -> bool:
    """Whether each device gets the same number of environments and the same share of a minibatch.

    Minibatches are made of steps, or of whole environments if the policy is recurrent.
    """
    num_samples = num_envs * (1 if recurrent else num_steps)
    return num_envs % num_devices == 0 and num_samples // num_devices % num_minibatches == 0


def require_divisible(mesh: Mesh, name: str, number: int) -> None:
    if number % mesh.size:
        raise ValueError(
            f"{name} must be a multiple of the {mesh.size} devices of the mesh, got {number}; "
            f"use {number - number % mesh.size + mesh.size}, or fewer devices"
        )


# Exchanges between devices. They are the identity outside `sharded`.


def mesh_axis() -> str | None:
    """The name of the mesh's axis inside `sharded`; `None` outside."""
    try:
        lax.axis_size(AXIS)
    except NameError:
        return None
    return AXIS


def num_parts() -> int:
    """The number of devices that share the work; 1 outside a mesh."""
    return 1 if mesh_axis() is None else lax.axis_size(AXIS)


def mean_over_devices(tree: PyTree) -> PyTree:
    """The mean of every leaf over devices.

    All leaves travel in one exchange, whose cost on a host hardly depends on its size.
    """
    if mesh_axis() is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(flat, AXIS))


def max_over_devices(x: Array) -> Array:
    return x if mesh_axis() is None else lax.pmax(x, AXIS)


def all_devices(condition: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether a condition holds on every device."""
    return condition if mesh_axis() is None else lax.pmin(condition.astype(int), AXIS) > 0


def gather_environments(tree: PyTree) -> PyTree:
    """The arrays `[T, N, …]` of all devices, joined along the environments."""
    if mesh_axis() is None:
        return tree
    return map_arrays(lambda x: lax.all_gather(x, AXIS, axis=1, tiled=True), tree)


def device_key(key: Array) -> Array:
    """A different key on each device."""
    return key if mesh_axis() is None else jax.random.fold_in(key, lax.axis_index(AXIS))
