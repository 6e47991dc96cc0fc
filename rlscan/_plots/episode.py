"""`record`: one episode of a policy, step by step."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._core.environment import action_space_of
from .._core.scan import filter_scan
from .._core.spaces import legal_action
from .._core.tree import map_arrays
from .._core.types import Environment, Policy, PyTree
from .._rollout.evaluate import Action, ask_networks, network_states, with_noise
from .._rollout.rollout import act, init_rollout
from .._rollout.state import RolloutState
from ..random._keys import KeyLike, as_key


class NetworkOutputs(eqx.Module):
    """The outputs of the K networks of MC-dropout, at one step or at T."""

    # The probability of each action, or the mean of another distribution.
    policy: Float[Array, "*T K A"]
    value: Float[Array, "*T K"]


class Episode(eqx.Module):
    """T steps, of which the first `length` belong to the episode; each leaf is `[T, …]`."""

    env_state: PyTree  # before each step
    observation: PyTree
    action: PyTree  # as the environment received it
    reward: Float[Array, " T"]
    networks: NetworkOutputs | None
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
    """Record one episode of a policy. This function is pure, so it can be jitted.

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
    state = init_rollout(policy, env, num_envs=1, key=env_key)
    masks = None if num_masks is None else jax.random.split(masks_key, num_masks)
    noisy = with_noise(policy)
    one_step = partial(act, policy, env, key_schedule="episode", is_mode=action == "mode")

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
        after, transition, _ = eqx.filter_vmap(one_step)(before)
        done = transition.terminated | transition.truncated
        action_sent = eqx.filter_vmap(sent)(before, transition.action)
        row = before.env_state, transition.observation, action_sent, transition.reward, done
        return (after, states), (map_arrays(lambda x: x[0], row), outputs)

    states = None if num_masks is None else network_states(policy, num_masks)
    _, ((env_state, observation, actions, reward, done), outputs) = filter_scan(
        step, (state, states), length=max_steps
    )
    length = jnp.where(done.any(), jnp.argmax(done) + 1, max_steps)
    return Episode(env_state, observation, actions, reward, outputs, length)


def _parameters(distribution: Any) -> Float[Array, " A"]:
    """The probabilities of actions, or the mean of another distribution."""
    if getattr(distribution, "logits", None) is not None:
        return jax.nn.softmax(distribution.logits).ravel()
    return jnp.ravel(distribution.mean())
