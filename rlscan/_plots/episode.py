"""`record`: one episode of a policy, step by step."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._core.environment import action_space_of, reset_env, step_env
from .._core.scan import filter_scan
from .._core.spaces import legal_action
from .._core.tree import as_strong_arrays, map_arrays
from .._core.types import Environment, Policy, PyTree, StepResult
from .._rollout.evaluate import Action, ask_networks, network_states, with_noise
from .._rollout.rollout import act, init_rollout
from .._rollout.state import RolloutState
from ..envs._wrappers import Wrapper
from ..random._keys import KeyLike, as_key
from .drawn import drawn_part, own_renderer, same_shapes


class NetworkOutputs(eqx.Module):
    """The outputs of the K networks of MC-dropout, at one step or at T."""

    # The probability of each action, or the mean of another distribution.
    policy: Float[Array, "*T K A"]
    value: Float[Array, "*T K"]


class Episode(eqx.Module):
    """T steps, of which the first `length` belong to the episode; each leaf is `[T, …]`.

    There are `[T + 1, …]` states and observations: after no step, after the first, and so on.
    """

    env_state: PyTree  # of the environment that is drawn, see `drawn_part`
    observation: PyTree
    action: PyTree  # as the environment received it
    reward: Float[Array | np.ndarray, " T"]
    networks: NetworkOutputs | None  # for the observation before each step
    length: Int[Array | np.ndarray, ""]
    num_frames: Int[Array | np.ndarray, ""]  # `length + 1`, or `length` if the last state is hidden


def record(
    policy: Policy,
    env: Environment,
    *,
    key: KeyLike,
    max_steps: int,
    action: Action = "mode",
    num_masks: int | None = None,
) -> Episode:
    """Record one episode of a policy. This function is pure, so it can be jitted.

    An environment resets itself, so the state after its last step is hidden, unless `step` returns
    it as `info["final_state"]`, as gymnax's environments do here. Only an environment that draws
    itself needs it: the last observation is never hidden.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`. If its noise is on, it acts with one mask throughout the
        episode.
    - `env`: as for `rlscan.rollout`.
    - `key`: consumed.
    - `max_steps`: T, after which the episode is cut.
    - `action`: the distribution's `"mode"`, or a `"sample"`.
    - `num_masks`: K networks of MC-dropout whose outputs are recorded as well; none by default.
    """
    env_key, masks_key = jax.random.split(as_key(key))
    watched = _Watched(env)
    start = init_rollout(policy, watched, num_envs=1, key=env_key)
    masks = None if num_masks is None else jax.random.split(masks_key, num_masks)
    noisy = with_noise(policy)
    one_step = partial(act, policy, watched, key_schedule="episode", is_mode=action == "mode")

    def sent(before: RolloutState, action: PyTree) -> PyTree:
        # The same key gives the same distribution, which maps its sample to a legal action.
        key = jax.random.clone(before.policy_key)
        distribution: Any
        distribution, *_ = policy(before.observation, before.policy_state, key=key)
        return legal_action(action_space_of(env), action, distribution)

    def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
        before, states = carry
        outputs = None
        if masks is not None:
            observation = map_arrays(lambda x: x[0], before.observation)
            *fields, states = ask_networks(_parameters, noisy, masks, observation, states)
            outputs = NetworkOutputs(*fields)
        after, transition, last_seen = eqx.filter_vmap(one_step)(before)
        done = transition.terminated | transition.truncated
        action_sent = eqx.filter_vmap(sent)(before, transition.action)
        shown = after.env_state.shown, last_seen.observation
        row = shown, action_sent, transition.reward, done, after.env_state.is_known
        return (after, states), (map_arrays(lambda x: x[0], row), outputs)

    states = None if num_masks is None else network_states(policy, num_masks)
    _, ((shown, actions, reward, done, is_known), outputs) = filter_scan(
        step, (start, states), length=max_steps
    )
    length = jnp.where(done.any(), jnp.argmax(done) + 1, max_steps)
    first = start.env_state.shown, start.observation
    env_state, observation = map_arrays(lambda x, xs: jnp.concatenate([x, xs]), first, shown)
    num_frames = length + is_known[length - 1]
    return Episode(env_state, observation, actions, reward, outputs, length, num_frames)


class _WatchedState(eqx.Module):
    env_state: PyTree
    shown: PyTree  # of the environment that is drawn, before any reset
    is_known: Bool[Array, ""]  # whether a frame can be drawn: a reset may have hidden the state


class _Watched(Wrapper):
    """An environment that also keeps the state to which a step led, before any reset."""

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, _WatchedState]:
        observation, state = reset_env(self.env, key)
        shown = drawn_part(self.env, state)[1]
        return observation, _WatchedState(state, shown, jnp.asarray(True))

    def step(self, key: PRNGKeyArray, state: _WatchedState, action: PyTree) -> StepResult:
        observation, inner, reward, terminated, truncated, info = step_env(
            self.env, key, state.env_state, action
        )
        drawn, shown = drawn_part(self.env, inner)
        final = as_strong_arrays(info.get("final_state"))
        is_known = ~(terminated | truncated) | (own_renderer(drawn) is None)
        if same_shapes(final, shown):
            shown, is_known = final, jnp.asarray(True)
        after = _WatchedState(inner, shown, is_known)
        return observation, after, reward, terminated, truncated, info


def _parameters(distribution: Any) -> Float[Array, " A"]:
    """The probabilities of actions, or the mean of another distribution."""
    if getattr(distribution, "logits", None) is not None:
        return jax.nn.softmax(distribution.logits).ravel()
    return jnp.ravel(distribution.mean())
