"""Several devices: one mesh axis over the environments, or over whatever else is mapped over."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .tree import is_shape, map_arrays
from .types import PyTree

AXIS = "envs"


# What is on a device: all of an array; its part of the first axis, or of the second.
WHOLE, FIRST, SECOND = PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of one axis, for the `mesh` of `rlscan.rollout`, `rlscan.train` and their kin.

    On CPUs the cores are one device until JAX is told otherwise, before it first runs:
    `rlscan.configure_cpu(num_devices=2)`.

    **Arguments:**

    - `num_devices`: how many of `jax.devices()`, from the first; all if not given.

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


def are_divided(
    num_devices: int, *, num_envs: int, num_steps: int, num_minibatches: int, recurrent: bool
) -> bool:
    """Whether each device has as many environments, and as much of each minibatch.

    Minibatches are of steps; those of a recurrent policy are of environments.
    """
    num_samples = num_envs * (1 if recurrent else num_steps)
    return num_envs % num_devices == 0 and num_samples // num_devices % num_minibatches == 0


def worthwhile(
    num_devices: int, *, num_envs: int, num_steps: int, num_minibatches: int, recurrent: bool
) -> int:
    """The most devices, up to those there are, that have enough to do each and divide evenly.

    PPO on CartPole with 32 environments and 512 steps of each minibatch on a device gained 1.24 on
    two cores (`python -m benchmarks --only devices`); smaller parts were not tried.
    """
    sizes = {"num_envs": num_envs, "num_steps": num_steps, "num_minibatches": num_minibatches}
    minibatch = num_envs * num_steps // num_minibatches

    def fits(d: int) -> bool:
        has_enough = num_envs >= 32 * d and minibatch >= 512 * d
        return d == 1 or (has_enough and are_divided(d, **sizes, recurrent=recurrent))

    return max(filter(fits, range(1, max(num_devices, 1) + 1)))


def on_devices(f: Callable, mesh: Mesh) -> Callable:
    """`f` with its arguments split over the devices along their first axes, and its results joined.

    For what is mapped over and needs no exchange, such as seeds:
    `on_devices(jax.vmap(train_one), mesh)(jax.random.split(key, 32))` trains 16 on each of two.

    **Arguments:**

    - `f`: a function of pytrees, each array of them and of the result with the mapped axis first.
    - `mesh`: from `make_mesh`.

    **Raises:** from the new function, `ValueError` for an axis that the devices do not divide.
    """

    def split(*arguments: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(eqx.filter(arguments, eqx.is_array)):
            if leaf.ndim == 0:
                raise ValueError(
                    f"each array that is split over devices must have a first axis, got a scalar "
                    f"{leaf.dtype}; close over what is the same for all"
                )
            require_divisible(mesh, "the first axis of each argument", leaf.shape[0])
        return sharded(f, mesh, (FIRST,) * len(arguments), FIRST)(*arguments)

    return split


def sharded(f: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    """`jax.shard_map` for pytrees with other leaves than arrays, which stay as they are."""

    def call(*arguments: PyTree) -> PyTree:
        arrays, rest = eqx.partition(arguments, eqx.is_array)
        result_rest: PyTree = None

        def local(*arrays: PyTree) -> PyTree:
            nonlocal result_rest
            results, result_rest = eqx.partition(f(*eqx.combine(arrays, rest)), eqx.is_array)
            return results

        # Not checked for what is equal on all devices: in here that is said by `in_specs` alone.
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        results = mapped(*arrays)
        return eqx.combine(results, result_rest)

    return call


def place(tree: PyTree, mesh: Mesh | None, specs: PyTree) -> PyTree:
    """The arrays of a tree where a program over the mesh wants them: else it compiles twice. Of
    arrays that are not there yet, `jax.ShapeDtypeStruct`, it is noted."""
    if mesh is None:
        return tree

    def one(x: Any, spec: Any) -> Any:  # of what is no array it says nothing
        if not is_shape(x):
            return x
        sharding = NamedSharding(mesh, spec)
        return jax.device_put(x, sharding) if eqx.is_array(x) else x.update(sharding=sharding)

    return jax.tree.map(one, tree, specs)


def require_divisible(mesh: Mesh, name: str, number: int) -> None:
    if number % mesh.size:
        raise ValueError(
            f"{name} must be a multiple of the {mesh.size} devices of the mesh, got {number}; "
            f"use {number - number % mesh.size + mesh.size}, or fewer devices"
        )


# Inside of `sharded`. `axis` is None where there is one device, and then there is nothing to do.


def mean_over(axis: str | None, tree: PyTree) -> PyTree:
    """The mean over devices of every leaf, in one exchange: on a host one costs 50 µs, and takes
    as long for a number as for a network."""
    if axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(flat, axis))


def max_over(axis: str | None, x: Array) -> Array:
    return x if axis is None else lax.pmax(x, axis)


def gather(axis: str | None, tree: PyTree) -> PyTree:
    """The parts of all devices, `[T, N, …]`."""
    if axis is None:
        return tree
    return map_arrays(lambda x: lax.all_gather(x, axis, axis=1, tiled=True), tree)


def own_key(axis: str | None, key: Array) -> Array:
    """Another key on each device."""
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))
