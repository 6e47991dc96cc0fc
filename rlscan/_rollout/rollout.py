"""The rollout: a policy acts in N copies of an environment for T steps, in one scan."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._check.policy import check_policy, check_state
from .._core.environment import action_space_of, reset_env, step_env
from .._core.mesh import FIRST, SECOND, WHOLE, require_divisible, sharded
from .._core.program import call_program
from .._core.require import require_one_of, require_positive
from .._core.roles import require_environment, require_one_program, require_policy
from .._core.scan import filter_scan
from .._core.spaces import legal_action
from .._core.tree import as_strong_arrays, cast_like, map_arrays, tree_bytes, where
from .._core.types import Environment, Policy, PyTree
from .._core.versions import warn_if_untested
from ..random._keys import KeyLike, as_key, key as make_key
from .layout import stored_input_major
from .slots import empty_slots, keep_truncated
from .state import (
    KEY_SCHEDULES,
    FinalObservations,
    KeySchedule,
    RolloutState,
    Trajectory,
    Transition,
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
    """Reset N environments and give each its own streams of random numbers.

    **Arguments:**

    - `policy`: an `eqx.Module` that follows the contract of `rlscan.Policy`.
    - `env`: an environment that follows the contract of `rlscan.Environment`.
    - `num_envs`: N.
    - `key`: consumed. What environment i draws depends on `key` and i, whatever N is.
    - `noise_key`: for the policy's own noise, consumed; derived from `key` by default. A different
        one gives different masks in the same environments, with the same draws of actions.
    - `shared_noise`: whether all environments have the same policy keys: at the same step, in
        their k-th episode or in the same rollout, depending on the key schedule.

    **Returns:** the state before the first step, every leaf `[N, …]`.

    **Raises:** whatever `check_policy` raises; `TypeError` or `ValueError` for a key that cannot be
    replayed, or a `num_envs` that is not a positive integer.
    """
    env_key, own_noise_key = jax.random.split(as_key(key))
    noise = own_noise_key if noise_key is None else as_key(noise_key)
    num_envs = require_positive("num_envs", num_envs)
    check_policy(policy, env, key=key)
    reset = partial(_reset, env, num_envs, shared_noise)
    return call_program(reset, policy, env_key, noise)


def _reset(
    env: Environment,
    num_envs: int,
    shared_noise: bool,
    policy: Policy,
    env_key: PRNGKeyArray,
    noise: PRNGKeyArray,
) -> RolloutState:
    def reset(index: Int[Array, ""]) -> RolloutState:
        stream, reset_key = jax.random.split(jax.random.fold_in(env_key, index))
        which = 0 if shared_noise else index
        noise_key, policy_key = jax.random.split(jax.random.fold_in(noise, which))
        observation, env_state = reset_env(env, reset_key)
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
        # A reset may return Python numbers, and other dtypes than a step.
        state = as_strong_arrays(state)
        after, *_ = eqx.filter_eval_shape(act, policy, env, state)
        return cast_like(after, state)

    return eqx.filter_vmap(reset)(jnp.arange(num_envs))


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
    """Act with a policy in N environments for T steps.

    Every draw of a step depends only on the keys in `state`, so rollouts chain: two of T steps
    are one of 2T (except for the schedule `"rollout"`). It runs as one compiled program, but is
    traced in each call: in a loop call it under `eqx.filter_jit`.

    **Arguments:**

    - `policy`: an `eqx.Module` that follows the contract of `rlscan.Policy`. Its parameters do not
        change here, so they are constants of the scan.
    - `env`: an environment that follows the contract of `rlscan.Environment`.
    - `state`: from `init_rollout`, or from the previous rollout.
    - `num_steps`: T, in steps of each environment.
    - `key_schedule`: how long a policy key, and every mask drawn from it, is kept: for a `"step"`;
        for an `"episode"`, until it is terminated or truncated, across rollouts too; for this
        `"rollout"`.
    - `unroll`: the number of steps in one iteration of the compiled loop.
    - `mesh`: devices to split the environments over, from `rlscan.make_mesh`. Each environment has
        its own streams of random numbers, so actions and masks do not depend on the mesh.

    **Returns:** `(state, trajectory)`: the state after the last step, and the T steps that led
    there, `[T, N, …]`.

    **Raises:** `ValueError` for an invalid count or schedule, or a state of another environment or
    policy; `TypeError` if `policy` or `env` is none.

    A key that outlives a step is a hidden variable ξ: what an action leads to depends on it, so
    V(s) is not V(s, ξ), and bootstrapping from it is biased for λ < 1. Let the critic see the key
    (draw its masks, or its input, from the same one, as with `shared_masks=True` of
    `rlscan.policies.ActorCritic`), or let λ go to 1. Per-episode masks explore coherently (Xie et
    al., *NADPEx*, 2018, arXiv:1812.09028).
    """
    warn_if_untested()
    require_policy(policy)
    require_environment(env)
    num_steps = require_positive("num_steps", num_steps)
    require_one_of("key_schedule", key_schedule, KEY_SCHEDULES)
    require_one_program(env, num_devices=1 if mesh is None else mesh.size)
    if mesh is not None:  # each device runs this same function for its own environments
        require_divisible(mesh, "the number of environments", state.episode_length.shape[0])
        settings = {"num_steps": num_steps, "key_schedule": key_schedule, "unroll": unroll}
        on_each = lambda policy, state: rollout(policy, env, state, **settings)  # noqa: E731
        return sharded(on_each, mesh, (WHOLE, FIRST), (FIRST, SECOND))(policy, state)

    steps = partial(_rollout, env, num_steps, key_schedule, unroll)
    return call_program(steps, policy, state)


def _rollout(
    env: Environment,
    num_steps: int,
    key_schedule: KeySchedule,
    unroll: int,
    policy: Policy,
    state: RolloutState,
) -> tuple[RolloutState, Trajectory]:
    load_policy = stored_input_major(policy)

    def step(carry: tuple, t: Int[Array, ""]) -> tuple[tuple, Transition]:
        state, slots = carry
        one_step = partial(
            act,
            load_policy(),
            env,
            key_schedule=key_schedule,
            is_last=t == num_steps - 1,
        )
        state, transition, last_seen = eqx.filter_vmap(one_step)(state)
        truncated = transition.truncated & ~transition.terminated
        slots = keep_truncated(env, num_steps, slots, t, truncated, last_seen)
        return (state, slots), transition

    slots = empty_slots(env, state, num_steps)
    try:
        (after, final), transitions = filter_scan(
            step, (state, slots), jnp.arange(num_steps), unroll=unroll
        )
    except Exception:
        check_state(policy, env, state)  # whose error tells more, if the state is at fault
        raise
    initial_policy_state = map_arrays(lambda leaf: leaf[None], state.policy_state)
    return after, Trajectory(
        **vars(transitions), initial_policy_state=initial_policy_state, final=final
    )


def act(
    policy: Policy,
    env: Environment,
    state: RolloutState,
    *,
    key_schedule: KeySchedule = "step",
    is_last: bool | Bool[Array, ""] = False,
    is_mode: bool = False,
) -> tuple[RolloutState, Transition, FinalObservations]:
    """Make one step in one environment.

    **Arguments:**

    - `policy`, `env`, `state`, `key_schedule`: as for `rollout`, for one environment.
    - `is_last`: whether the rollout ends with this step.
    - `is_mode`: whether the action is the distribution's mode rather than a sample.

    **Returns:** the next state, the transition, and the last observation before any reset, as a
    slot of `FinalObservations` holds it.
    """
    key, action_key, env_key = jax.random.split(state.key, 3)
    # Cloned, because `replay` will use the recorded key a second time.
    distribution, value, policy_state = policy(
        state.observation, state.policy_state, key=jax.random.clone(state.policy_key)
    )
    action = _mode(distribution) if is_mode else distribution.sample(seed=action_key)
    observation, env_state, reward, terminated, truncated, info = step_env(
        env, env_key, state.env_state, legal_action(action_space_of(env), action, distribution)
    )
    done = terminated | truncated
    episode_return, episode_length = state.episode_return + reward, state.episode_length + 1
    noise_key, policy_key = _next_keys(
        state, {"step": True, "episode": done, "rollout": is_last}[key_schedule]
    )
    after = RolloutState(
        env_state=env_state,
        observation=observation,
        policy_state=where(done, as_strong_arrays(policy.initial_state()), policy_state),
        key=key,
        noise_key=noise_key,
        policy_key=policy_key,
        episode_return=jnp.where(done, 0.0, episode_return),
        episode_length=jnp.where(done, 0, episode_length),
    )
    transition = Transition(
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
    )
    last_seen = FinalObservations(
        step=jnp.zeros((), jnp.int32),
        observation=info["final_observation"],
        policy_state=policy_state,
        policy_key=state.policy_key,
    )
    return after, transition, last_seen


def _mode(distribution: Any) -> PyTree:
    return distribution.mode()  # optional, so it is not part of the protocol


def _next_keys(state: RolloutState, is_new: bool | Bool[Array, ""]) -> tuple[Array, Array]:
    """The next `(noise_key, policy_key)`; the current ones unless `is_new`."""
    noise_key, policy_key = jax.random.split(jax.random.clone(state.noise_key))
    if is_new is True:
        return noise_key, policy_key
    return where(jnp.asarray(is_new), (noise_key, policy_key), (state.noise_key, state.policy_key))


def transition_bytes(
    policy: Policy, env: Environment, num_steps: int, *, key: KeyLike | None = None
) -> float:
    """Compute the size of a trajectory per transition, in bytes, from its shapes.

    A rollout of T steps in N environments keeps exactly
    `T * N * transition_bytes(policy, env, T)` bytes. `rlscan.Trajectory` has the formula. N cancels
    out; T matters only for the slots of final observations and for a recurrent policy's first
    state. Nothing is compiled or computed.

    **Arguments:**

    - `policy`: an `eqx.Module` that follows the contract of `rlscan.Policy`.
    - `env`: an environment that follows the contract of `rlscan.Environment`.
    - `num_steps`: T, in steps of each environment.
    - `key`: a key of the generator that the rollout draws from, since its keys are stored; by
        default one of `mix32`.

    **Returns:** bytes per transition, which need not be a whole number.

    **Raises:** whatever `init_rollout` and `rollout` raise.
    """
    num_steps = require_positive("num_steps", num_steps)
    some_key = make_key(0) if key is None else as_key(key)

    def one_environment(key: PRNGKeyArray) -> Trajectory:
        state = init_rollout(policy, env, num_envs=1, key=key)
        return rollout(policy, env, state, num_steps)[1]

    return tree_bytes(eqx.filter_eval_shape(one_environment, some_key)) / num_steps
