"""The slots in which a rollout keeps the last observations of truncated episodes."""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from .._core.tree import clone_keys, map_arrays, where
from .._core.types import Environment
from .state import FinalObservations, RolloutState


def empty_slots(env: Environment, state: RolloutState, num_steps: int) -> FinalObservations:
    """Make the unused slots of a rollout of T steps, `[K, N, …]`.

    K is the environment's `final_slots`; else ⌈T / L⌉ for its `time_limit` L; else T.
    """
    unused = FinalObservations(
        step=jnp.full(state.key.shape, num_steps),
        observation=state.observation,
        policy_state=state.policy_state,
        policy_key=state.policy_key,
    )
    declared = getattr(env, "final_slots", None)
    blocks = math.ceil(num_steps / _block_length(env, num_steps))
    num_slots = blocks if declared is None else min(declared, num_steps)
    return map_arrays(lambda leaf: jnp.broadcast_to(leaf, (num_slots, *leaf.shape)), unused)


def keep_truncated(
    env: Environment,
    num_steps: int,
    slots: FinalObservations,
    t: Int[Array, ""],
    truncated: Bool[Array, " N"],
    last_seen: FinalObservations,
) -> FinalObservations:
    """Store the last observations of the environments that step t truncated."""
    last_seen = dataclasses.replace(last_seen, step=jnp.full(truncated.shape, t))
    if getattr(env, "final_slots", None) is not None:
        return _keep_in_next(num_steps, slots, truncated, last_seen)
    k = t // _block_length(env, num_steps)
    before = map_arrays(
        lambda slot: lax.dynamic_index_in_dim(slot, k, keepdims=False), clone_keys(slots)
    )
    after = where(truncated, last_seen, before)
    return map_arrays(lambda s, x: lax.dynamic_update_index_in_dim(s, x, k, 0), slots, after)


def _block_length(env: Environment, num_steps: int) -> int:
    """The number of steps in which an environment is truncated at most once."""
    time_limit = getattr(env, "time_limit", None)
    if time_limit is None:
        return 1  # any step may truncate
    return int(min(time_limit, num_steps))


def _keep_in_next(
    num_steps: int,
    slots: FinalObservations,
    truncated: Bool[Array, " N"],
    last_seen: FinalObservations,
) -> FinalObservations:
    """Store last observations in the first unused slot of each environment.

    If it has none left, the observation is lost.
    """
    num_slots, num_envs = slots.step.shape
    used = (slots.step < num_steps).sum(axis=0)
    k = jnp.where(truncated, used, num_slots)  # out of bounds, and dropped
    environments = jnp.arange(num_envs)
    return map_arrays(
        lambda slot, x: slot.at[k, environments].set(x, mode="drop"), clone_keys(slots), last_seen
    )
