"""The rollout: a policy acts in N copies of an environment for T steps, in one scan."""

import dataclasses
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._check.policy import check_policy
from .._core.mesh import FIRST, SECOND, WHOLE, require_divisible, sharded
from .._core.require import require_one_of, require_positive
from .._core.scan import filter_scan
from .._core.spaces import legal_action
from .._core.tree import in_dtypes_of, map_arrays, strong, unused, where
from .._core.types import Environment, Policy, PyTree
from ..random._keys import KeyLike, as_key, key as make_key
from .layout import turned
from .state import (
    KEY_SCHEDULES,
    FinalObservations,
    KeySchedule,
    RolloutState,
    Trajectory,
    is_recurrent,
)


def init_rollout(
    policy: Policy,
    env: Environment,
    *,
    num_envs: int,
    key: KeyLike,
    noise_key: KeyLike | None = None,
    shared_noise: bool = False,
) -> RolloutState:
    """Resets N environments and gives each its own streams of random numbers.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`.
    - `env`: anything by the contract of `rlscan.Environment`.
    - `num_envs`: N.
    - `key`: consumed. What environment i draws depends on `key` and i, whatever N is.
    - `noise_key`: of the policy's own noise, consumed; from `key` if not given. Another one gives
        other masks in the same environments, under the same draws of actions.
    - `shared_noise`: whether all environments have the same policy keys: at the same step, in
        their k-th episode, or in the same rollout, as the key schedule has it.

    **Returns:** the state before the first step, every leaf `[N, …]`.

    **Raises:** as `check_policy`; `TypeError` or `ValueError` for a key that cannot be replayed,
    or a `num_envs` that is no positive integer.
    """
    env_key, own_noise_key = jax.random.split(as_key(key))
    noise = own_noise_key if noise_key is None else as_key(noise_key)
    require_positive("num_envs", num_envs)
    check_policy(policy, env)

    def reset(index: Int[Array, ""]) -> RolloutState:
        stream, reset_key = jax.random.split(jax.random.fold_in(env_key, index))
        which = 0 if shared_noise else index
        noise_key, policy_key = jax.random.split(jax.random.fold_in(noise, which))
        observation, env_state = env.reset(reset_key)
        state = RolloutState(
            env_state=env_state,
            observation=observation,
            policy_state=policy.initial_state(),
            key=stream,
            noise_key=noise_key,
            policy_key=policy_key,
            episode_return=jnp.zeros(()),
            episode_length=jnp.zeros((), jnp.int32),
        )
        # An environment may reset to Python numbers, and to another dtype than it steps to.
        state = strong(state)
        after, *_ = eqx.filter_eval_shape(act, policy, env, state)
        return in_dtypes_of(after, state)

    return eqx.filter_jit(eqx.filter_vmap(reset))(jnp.arange(num_envs))


def rollout(
    policy: Policy,
    env: Environment,
    state: RolloutState,
    num_steps: int,
    *,
    key_schedule: KeySchedule = "step",
    unroll: int = 1,
    mesh: Mesh | None = None,
) -> tuple[RolloutState, Trajectory]:
    """Acts with `policy` in N environments for T steps.

    Every draw of a step depends only on the keys in `state`, so rollouts chain: two of T steps
    are one of 2T (but for the schedule `"rollout"`). Not jitted by itself: call it under
    `eqx.filter_jit`.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`. Its parameters do not change
        here, so they are constants of the scan.
    - `env`: anything by the contract of `rlscan.Environment`.
    - `state`: from `init_rollout`, or from the rollout before.
    - `num_steps`: T, in steps of each environment.
    - `key_schedule`: how long a policy key is kept, and with it every mask that is drawn from it:
        for a `"step"`; for an `"episode"`, until it is terminated or truncated, also across
        rollouts; for this `"rollout"`.
    - `unroll`: how many steps one iteration of the compiled loop holds.
    - `mesh`: devices to split the environments over, from `rlscan.make_mesh`. Each environment has
        streams of its own, so what happens and which masks are drawn do not depend on it.

    **Returns:** `(state, trajectory)`, where the environments stand now, and the T steps that led
    there, `[T, N, …]`.

    **Raises:** `ValueError` for a count or a schedule that cannot be.

    A key that outlives a step is a hidden variable ξ: what an action leads to depends on it, so
    V(s) is not V(s, ξ), and bootstrapping from it is biased for λ < 1. Let the critic see the key
    (draw its masks, or its input, from the same one: `rlscan.ActorCritic(shared_masks=True)`), or
    let λ go to 1. Per-episode masks explore coherently (Xie et al., *NADPEx*, 2018,
    arXiv:1812.09028).
    """
    require_positive("num_steps", num_steps)
    require_one_of("key_schedule", key_schedule, KEY_SCHEDULES)
    if mesh is not None:
        require_divisible(mesh, "the number of environments", state.episode_length.shape[0])
        on_one = partial(_rollout_of, env, num_steps, key_schedule, unroll)
        return sharded(on_one, mesh, (WHOLE, FIRST), (FIRST, SECOND))(policy, state)
    return _rollout_of(env, num_steps, key_schedule, unroll, policy, state)


def _rollout_of(
    env: Environment,
    num_steps: int,
    key_schedule: KeySchedule,
    unroll: int,
    policy: Policy,
    state: RolloutState,
) -> tuple[RolloutState, Trajectory]:
    block_length = _block_length(env, num_steps)
    held = turned(policy)  # and turned back in each step, see `turned` for what it gains

    def step(carry: tuple, t: Int[Array, ""]) -> tuple[tuple, Trajectory]:
        state, final = carry
        one_step = partial(
            act, turned(held), env, key_schedule=key_schedule, is_last=t == num_steps - 1
        )
        state, transition, seen_last = eqx.filter_vmap(one_step)(state)
        truncated = transition.truncated & ~transition.terminated
        final = _keep_final(final, t, block_length, truncated, seen_last)
        return (state, final), transition

    final = _empty_slots(state, num_steps, block_length)
    (after, final), trajectory = filter_scan(
        step, (state, final), jnp.arange(num_steps), unroll=unroll
    )
    initial_policy_state = map_arrays(lambda leaf: leaf[None], state.policy_state)
    return after, dataclasses.replace(
        trajectory, initial_policy_state=initial_policy_state, final=final
    )


def act(
    policy: Policy,
    env: Environment,
    state: RolloutState,
    *,
    key_schedule: KeySchedule = "step",
    is_last: bool | Bool[Array, ""] = False,
    is_mode: bool = False,
) -> tuple[RolloutState, Trajectory, FinalObservations]:
    """One step of one environment: what it leads to, what happened, and what was seen last.

    `is_last` says whether the rollout ends with it; `is_mode`, whether the action is the
    distribution's mode rather than a sample.
    """
    key, action_key, env_key = jax.random.split(state.key, 3)
    # A clone, as the same key is recorded, to be used again by `replay`.
    distribution, value, policy_state = policy(
        state.observation, state.policy_state, key=jax.random.clone(state.policy_key)
    )
    action = _mode(distribution) if is_mode else distribution.sample(seed=action_key)
    observation, env_state, reward, terminated, truncated, info = env.step(
        env_key, state.env_state, legal_action(env.action_space(), action, distribution)
    )
    observation, final_observation = strong(observation), strong(info["final_observation"])
    reward = jnp.asarray(reward, jnp.float32)
    terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    done = terminated | truncated
    episode_return, episode_length = state.episode_return + reward, state.episode_length + 1
    noise_key, policy_key = _next_keys(
        state, {"step": True, "episode": done, "rollout": is_last}[key_schedule]
    )
    after = RolloutState(
        env_state=strong(env_state),
        observation=observation,
        policy_state=where(done, strong(policy.initial_state()), policy_state),
        key=key,
        noise_key=noise_key,
        policy_key=policy_key,
        episode_return=jnp.where(done, 0.0, episode_return),
        episode_length=jnp.where(done, 0, episode_length),
    )
    transition = Trajectory(
        observation=state.observation,
        action=action,
        log_prob=distribution.log_prob(action),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        episode_return=episode_return,
        episode_length=episode_length,
        policy_key=state.policy_key,
        value=value if is_recurrent(policy) else None,
        initial_policy_state=None,
        final=None,
    )
    seen_last = FinalObservations(
        step=jnp.zeros((), jnp.int32),
        observation=in_dtypes_of(observation, final_observation),
        policy_state=policy_state,
        policy_key=state.policy_key,
    )
    return after, transition, seen_last


def _mode(distribution: Any) -> PyTree:
    return distribution.mode()  # not in the protocol, as only an evaluation may ask for it


def _next_keys(state: RolloutState, is_new: bool | Bool[Array, ""]) -> tuple[Array, Array]:
    """`(noise_key, policy_key)`, as they were unless there is to be a new one."""
    noise_key, policy_key = jax.random.split(jax.random.clone(state.noise_key))
    if is_new is True:
        return noise_key, policy_key
    return where(jnp.asarray(is_new), (noise_key, policy_key), (state.noise_key, state.policy_key))


def _block_length(env: Environment, num_steps: int) -> int:
    """Steps within which an environment is truncated at most once."""
    time_limit = getattr(env, "time_limit", None)
    if time_limit is None:
        return 1  # any step may truncate
    return int(min(time_limit, num_steps))


def _empty_slots(state: RolloutState, num_steps: int, block_length: int) -> FinalObservations:
    unused = FinalObservations(
        step=jnp.full(state.key.shape, num_steps),
        observation=state.observation,
        policy_state=state.policy_state,
        policy_key=state.policy_key,
    )
    num_slots = math.ceil(num_steps / block_length)
    return map_arrays(lambda leaf: jnp.broadcast_to(leaf, (num_slots, *leaf.shape)), unused)


def _keep_final(
    slots: FinalObservations,
    t: Int[Array, ""],
    block_length: int,
    truncated: Bool[Array, " N"],
    seen_last: FinalObservations,
) -> FinalObservations:
    """Keeps what was seen last by the environments that step t has truncated."""
    k = t // block_length
    seen_last = dataclasses.replace(seen_last, step=jnp.full(truncated.shape, t))
    before = map_arrays(
        lambda slot: lax.dynamic_index_in_dim(slot, k, keepdims=False), unused(slots)
    )
    after = where(truncated, seen_last, before)
    return map_arrays(lambda s, x: lax.dynamic_update_index_in_dim(s, x, k, 0), slots, after)


def transition_bytes(
    policy: Policy, env: Environment, num_steps: int, *, key: KeyLike | None = None
) -> float:
    """Bytes of a trajectory per transition: its size, over T · N.

    A rollout of T steps in N environments keeps `T * N * transition_bytes(policy, env, T)` bytes,
    exactly. `rlscan.Trajectory` has the formula, and what is not in it: N cancels out, and T
    counts only for the slots of final observations, and for a recurrent policy's first state.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`.
    - `env`: anything by the contract of `rlscan.Environment`.
    - `num_steps`: T, in steps of each environment.
    - `key`: of the generator that the rollout draws from, whose keys are stored; of rlscan's own
        if not given.

    **Returns:** bytes per transition; not a whole number where T does not divide the rest.

    **Raises:** as `init_rollout` and `rollout`.
    """
    require_positive("num_steps", num_steps)
    some_key = make_key(0) if key is None else as_key(key)

    def one_environment(key: PRNGKeyArray) -> Trajectory:
        state = init_rollout(policy, env, num_envs=1, key=key)
        return rollout(policy, env, state, num_steps)[1]

    return array_bytes(eqx.filter_eval_shape(one_environment, some_key)) / num_steps


def array_bytes(tree: PyTree) -> int:
    """Bytes of the arrays of a tree, or of their shapes; a key's are those of its words."""

    def one(leaf: Any) -> int:
        is_array = isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)
        return math.prod(leaf.shape) * leaf.dtype.itemsize if is_array else 0

    return sum(map(one, jax.tree.leaves(tree)))
