"""The state that training starts from, or goes on from."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PRNGKeyArray

from .._core.mesh import FIRST, place
from .._core.tree import cast_like, map_arrays
from .._core.types import Environment, PyTree
from ..random._keys import KeyLike, as_keys
from ._algorithm import PPO, Algorithm
from ._config import PPOConfig
from ._hook import require_extra_of
from ._runs_axis import over_runs
from ._update import check_mesh, state_specs


def start(
    env: Environment,
    algorithm: Any,
    mesh: Mesh | None,
    policy: Any,
    keys: Key[Array, "*R"],
) -> tuple[PyTree, PyTree]:
    """Make the state before the first update, and its place on a mesh."""
    state = first_state(policy, env, algorithm, keys)
    return state, _specs(state, algorithm, keys.shape, mesh)


def first_state(
    policy: Any,
    env: Environment,
    algorithm: PPOConfig | Algorithm,
    keys: Key[Array, "*R"],
) -> Any:
    """Make the state before the first update, from a policy or a function that makes one."""
    begin = PPO(algorithm) if isinstance(algorithm, PPOConfig) else algorithm

    def one(policy: Any, key: PRNGKeyArray) -> Any:
        if _is_factory(policy):
            policy_key, key = jax.random.split(key)
            policy = policy(key=policy_key)
        return begin.init(policy, env, key)

    return over_runs(one, keys.shape)(policy, keys)


def _specs(state: Any, algorithm: Any, axis: tuple[int, ...], mesh: Mesh | None) -> PyTree:
    """Check that devices can share the work, and tell where the arrays of a state are then."""
    if mesh is None:
        return None
    if axis:  # several runs are split as they are
        return map_arrays(lambda _: FIRST, state)
    check_mesh(mesh, state.policy, algorithm.config, algorithm.on_batch)
    return state_specs(state)


def _is_factory(policy: Any) -> bool:
    return callable(policy) and not hasattr(policy, "initial_state")


def require_axis_of_runs(policy: Any, keys: Key[Array, "*R"]) -> None:
    if not keys.ndim or _is_factory(policy):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(policy, eqx.is_array)):
        if leaf.shape[:1] != keys.shape:
            raise ValueError(
                f"for {len(keys)} keys every array of the policy must have a first axis of "
                f"{len(keys)} runs, got policy{jax.tree_util.keystr(path)} of shape {leaf.shape}; "
                "pass a function that makes a policy, such as "
                "functools.partial(rlscan.policies.ActorCritic, env), "
                "or one made by eqx.filter_vmap"
            )


def axis_of(state: Any, key: KeyLike | None) -> tuple[int, ...]:
    """The axis of runs of a state to go on from: the state tells, or else the keys."""
    if hasattr(state, "num_updates"):
        return np.shape(state.num_updates)
    return () if key is None else as_keys(key).shape


def placed(
    state: Any, env: Environment, algorithm: Any, axis: tuple[int, ...], mesh: Mesh | None
) -> Any:
    """Check a state to go on from, and put it where the program expects it.

    It keeps its own environment, whose arrays may have changed, unless that is another one.
    """
    if not isinstance(algorithm, PPO):
        return state
    algorithm.check(state.policy)
    require_extra_of(algorithm.on_batch, state.policy, env, state.extra, state.key)
    given = cast_like(env, env)
    if axis:
        given = map_arrays(lambda x: jnp.broadcast_to(x, (*axis, *x.shape)), given)
    if not _are_alike(state.env, given):
        state = dataclasses.replace(state, env=given)
    return state if mesh is None else place(state, mesh, _specs(state, algorithm, axis, mesh))


def _are_alike(one: PyTree, other: PyTree) -> bool:
    """Whether two trees differ in the values of their arrays alone."""
    kinds = partial(map_arrays, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype))
    return bool(eqx.tree_equal(kinds(one), kinds(other)))
