"""`record`: one episode, step by step, for who wants to see it."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._core.scan import filter_scan
from .._core.spaces import legal_action
from .._core.tree import as_strong_arrays, map_arrays
from .._core.types import Environment, Policy, PyTree
from .._rollout.evaluate import Action, with_noise
from .._rollout.rollout import act, init_rollout
from .._rollout.state import RolloutState
from ..random._keys import KeyLike, as_key


class Opinions(eqx.Module):
    """What K networks of MC-dropout, each with one mask, think: of one step, or of T."""

    # The probability of each action, or the mean of another distribution.
    policy: Float[Array, "*T K A"]
    value: Float[Array, "*T K"]


class Episode(eqx.Module):
    """T steps, of which the first `length` are the episode: each leaf is `[T, …]`."""

    env_state: PyTree  # before each step
    observation: PyTree
    action: PyTree  # as the environment was sent it
    reward: Float[Array, " T"]
    opinions: Opinions | None
    length: Int[Array, ""]


def record(
    policy: Policy,
    env: Environment,
    *,
    key: KeyLike,
    max_steps: int,
    action: Action = "mode",
    num_masks: int | None = None,
) -> Episode:
    """One episode of a policy. Pure: jit it.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`; it acts in the mode that it is in, and with one mask
        throughout the episode where it has its noise.
    - `env`: as for `rlscan.rollout`.
    - `key`: consumed.
    - `max_steps`: T, after which the episode is cut.
    - `action`: the distribution's `"mode"`, or a `"sample"`.
    - `num_masks`: K; without it there are no opinions.
    """
    env_key, masks_key = jax.random.split(as_key(key))
    state = init_rollout(policy, env, num_envs=1, key=env_key)
    masks = None if num_masks is None else jax.random.split(masks_key, num_masks)
    noisy = with_noise(policy)
    one_step = partial(act, policy, env, key_schedule="episode", is_mode=action == "mode")

    def sent(before: RolloutState, action: PyTree) -> PyTree:
        """By the same key the same distribution, which says what its action stands for."""
        key = jax.random.clone(before.policy_key)
        distribution: Any
        distribution, *_ = policy(before.observation, before.policy_state, key=key)
        return legal_action(env.action_space(), action, distribution)

    def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
        before, networks = carry
        opinions = None
        if masks is not None:
            observation = map_arrays(lambda x: x[0], before.observation)
            opinions, networks = _ask(noisy, masks, observation, networks)
        after, transition, _ = eqx.filter_vmap(one_step)(before)
        done = transition.terminated | transition.truncated
        action_sent = eqx.filter_vmap(sent)(before, transition.action)
        seen = before.env_state, transition.observation, action_sent, transition.reward, done
        return (after, networks), (map_arrays(lambda x: x[0], seen), opinions)

    networks = None
    if num_masks is not None:
        networks = map_arrays(
            lambda leaf: jnp.broadcast_to(leaf, (num_masks, *leaf.shape)),
            as_strong_arrays(policy.initial_state()),
        )
    _, ((env_state, observation, actions, reward, done), opinions) = filter_scan(
        step, (state, networks), length=max_steps
    )
    length = jnp.where(done.any(), jnp.argmax(done) + 1, max_steps)
    return Episode(env_state, observation, actions, reward, opinions, length)


def _ask(
    policy: Policy, masks: Array, observation: PyTree, states: PyTree
) -> tuple[Opinions, PyTree]:
    """What the K networks think of one observation, and their recurrent states."""

    def one(state: PyTree, key: PRNGKeyArray) -> tuple[Array, Any, PyTree]:
        distribution: Any
        distribution, value, state = policy(observation, state, key=key)
        if getattr(distribution, "logits", None) is not None:
            return jax.nn.softmax(distribution.logits).ravel(), value, state
        return jnp.ravel(distribution.mean()), value, state

    parameters, value, states = eqx.filter_vmap(one)(states, jax.random.clone(masks))
    return Opinions(parameters, value), states
