"""`evaluate`: play whole episodes, with a switch for each source of a policy's randomness."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from .._core.field_docs import with_field_docs
from .._core.program import call_program
from .._core.require import require_one_of, require_positive
from .._core.roles import require_environment, require_policy
from .._core.scan import filter_scan
from .._core.tree import as_strong_arrays, map_arrays, where
from .._core.types import Environment, Policy, PyTree, is_distribution
from ..random._keys import KeyLike, as_key
from .rollout import act, init_rollout
from .state import KEY_SCHEDULES, KeySchedule, RolloutState

Action = Literal["sample", "mode"]
Network = Literal["train", "inference", "mc-dropout"]


@with_field_docs
class Evaluation(eqx.Module):
    """The results of E episodes. With MC-dropout, `[K, E / K, …]`: a row for each of K masks."""

    episode_return: Float[Array, "*E"]
    """Undiscounted return of each episode."""
    episode_length: Int[Array, "*E"]
    """Length of each episode, in environment steps."""
    finished: Bool[Array, "*E"]
    """Whether the episode ended within `max_steps`."""
    spread: "Spread | None"
    """How far the networks of MC-dropout disagree; `None` for one network."""


@with_field_docs
class Spread(eqx.Module):
    """Standard deviations over the K networks of MC-dropout, which measure their disagreement.

    Those of the distribution and of the value are computed at each step of an episode, then
    averaged over its steps.
    """

    distribution: PyTree
    """A dict with "logits" `[K, E / K, A]`, or with "mean" and "stddev" for another distribution;
    for a joint one, such a dict for each part of the action."""
    value: PyTree
    """The same for the value, `[K, E / K, …]`."""

    episode_return: Float[Array, ""] | None
    """Standard deviation of the networks' mean returns."""


def evaluate(
    policy: Policy,
    env: Environment,
    *,
    num_episodes: int,
    key: KeyLike,
    action: Action = "sample",
    network: Network = "inference",
    noise_key: KeyLike | None = None,
    num_masks: int = 8,
    key_schedule: KeySchedule = "step",
    max_steps: int | None = None,
) -> Evaluation:
    """Evaluate a policy on whole episodes. This function is pure, so it can be jitted.

    There is one episode in each of E environments, so short episodes are not overrepresented.

    **Arguments:**

    - `policy`: as for `rlscan.rollout`, in inference mode or not.
    - `env`: as for `rlscan.rollout`.
    - `num_episodes`: E.
    - `key`: for environments and sampled actions. It is consumed; do not use the training key.
    - `action`: the distribution's `"mode"`, or a `"sample"`.
    - `network`: `"train"` with noise; `"inference"` without; or `"mc-dropout"`: K networks, each
        with one fixed mask. Each plays E / K episodes, and at every step the
        outputs of all K are compared.
    - `noise_key`: for the noise. It is consumed, and defaults to a key derived from `key`. Another
        key gives other masks in the same environments.
    - `num_masks`: K, for MC-dropout.
    - `key_schedule`: when the noise of `"train"` is redrawn, see `rlscan.rollout`.
    - `max_steps`: the number of steps after which an episode is cut. Defaults to the time limit.

    **Returns:** an `Evaluation`.

    **Raises:** like `rlscan.init_rollout`; `ValueError` for an invalid argument, or if there is
    neither a `max_steps` nor a time limit.

    Source: Gal & Ghahramani, *Dropout as a Bayesian Approximation*, 2016, arXiv:1506.02142.
    """
    require_policy(policy)
    require_environment(env)
    require_one_of("action", action, ("sample", "mode"))
    require_one_of("network", network, ("train", "inference", "mc-dropout"))
    num_episodes = require_positive("num_episodes", num_episodes)
    require_one_of("key_schedule", key_schedule, KEY_SCHEDULES)
    max_steps = _max_steps(env, max_steps)
    is_mc = network == "mc-dropout"
    if is_mc:
        num_masks = require_positive("num_masks", num_masks)
        _require_divisible(num_episodes, num_masks)
        key_schedule = "rollout"
    env_key, own_noise_key = jax.random.split(as_key(key))
    noise_key, masks_key = jax.random.split(
        own_noise_key if noise_key is None else as_key(noise_key)
    )
    policy = eqx.nn.inference_mode(policy) if network == "inference" else with_noise(policy)
    masks = jax.random.split(masks_key, num_masks) if is_mc else None
    settings = {"key_schedule": key_schedule, "is_mode": action == "mode"}
    play = partial(_play, env, num_episodes, max_steps, settings)
    return call_program(play, policy, env_key, noise_key, masks)


def with_noise(policy: Policy) -> Policy:
    """Switch all noise on, unless some of it is on already.

    A policy that was trained with some layers switched off, or with frozen statistics, therefore
    stays as it was.
    """

    def has_flag(node: Any) -> bool:
        return hasattr(node, "inference")

    nodes = jax.tree.leaves(policy, is_leaf=has_flag)
    is_quiet = all(node.inference for node in nodes if has_flag(node))
    return eqx.nn.inference_mode(policy, value=False) if is_quiet else policy


def _play(
    env: Environment,
    num_episodes: int,
    max_steps: int,
    settings: dict[str, Any],
    policy: Policy,
    env_key: PRNGKeyArray,
    noise_key: PRNGKeyArray,
    masks: Key[Array, "*K"] | None,
) -> Evaluation:
    """Play an episode in each environment; `settings` are those of `act`."""
    state = init_rollout(policy, env, num_envs=num_episodes, key=env_key, noise_key=noise_key)
    one_step = partial(act, policy, env, **settings)
    if masks is None:
        return _play_first(one_step, policy, state, None, max_steps)
    of_each = jnp.repeat(masks, num_episodes // len(masks))
    state = eqx.tree_at(lambda s: s.policy_key, state, of_each)
    return _by_mask(_play_first(one_step, policy, state, masks, max_steps), len(masks))


def _play_first(
    one_step: Callable, policy: Policy, state: RolloutState, masks: Array | None, max_steps: int
) -> Evaluation:
    """Play the first episode of each environment, `[E]`."""

    def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
        state, playing, networks = carry
        spread = None
        if masks is not None:
            disagreement = partial(_disagreement, policy, masks)
            spread, networks = eqx.filter_vmap(disagreement)(state.observation, networks)
        state, transition, _ = eqx.filter_vmap(one_step)(state)
        done = transition.terminated | transition.truncated
        return (state, playing & ~done, networks), (playing, transition.reward, spread)

    playing = jnp.ones(state.key.shape, bool)
    networks = None if masks is None else network_states(policy, *playing.shape, *masks.shape)
    (_, unfinished, _), (playing, reward, spread) = filter_scan(
        step, (state, playing, networks), length=max_steps
    )

    def over_episode(per_step: Array) -> Array:
        """The mean over the steps of each episode, for `[T, E, …]`."""
        length = jnp.expand_dims(playing.sum(axis=0), range(1, per_step.ndim - 1))
        total = where(playing, per_step, jnp.zeros_like(per_step)).sum(axis=0)
        return total / length.astype(total.dtype)

    return Evaluation(
        episode_return=jnp.where(playing, reward, 0).sum(axis=0),
        episode_length=playing.sum(axis=0, dtype=jnp.int32),
        finished=~unfinished,
        spread=None if spread is None else jax.tree.map(over_episode, spread),
    )


def network_states(policy: Policy, *shape: int) -> PyTree:
    """The initial states of networks of MC-dropout, with the axes `shape` in front."""
    states = as_strong_arrays(policy.initial_state())
    return map_arrays(lambda leaf: jnp.broadcast_to(leaf, (*shape, *leaf.shape)), states)


def ask_networks(
    read: Callable[[Any], PyTree], policy: Policy, masks: Array, observation: PyTree, states: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """Call the K networks of MC-dropout with one observation.

    **Arguments:**

    - `read`: takes the parameters of interest out of a distribution.
    - `policy`: with its noise on.
    - `masks`: a key for each network, which it uses at every step. Not consumed.
    - `observation`: one observation.
    - `states`: the recurrent states, `[K, …]`.

    **Returns:** `(parameters, value, states)`, `[K, …]` each.
    """

    def one(state: PyTree, key: PRNGKeyArray) -> tuple[PyTree, PyTree, PyTree]:
        distribution, value, state = policy(observation, state, key=key)
        return read(distribution), value, state

    return eqx.filter_vmap(one)(states, jax.random.clone(masks))


def _disagreement(
    policy: Policy, masks: Array, observation: PyTree, states: PyTree
) -> tuple["Spread", PyTree]:
    """The spread of the K networks for one observation, and their new states."""
    parameters, value, states = ask_networks(parameters_of, policy, masks, observation, states)
    deviation = partial(jax.tree.map, lambda x: jnp.std(x, axis=0))
    return Spread(deviation(parameters), deviation(value), None), states


def parameters_of(distribution: Any) -> PyTree:
    """The parameters of a distribution: its logits, or its mean and standard deviation."""
    if hasattr(distribution, "distributions"):  # rlscan's or distrax's Joint
        return jax.tree.map(parameters_of, distribution.distributions, is_leaf=is_distribution)
    base = getattr(distribution, "distribution", distribution)  # within distrax.Independent
    if getattr(base, "logits", None) is not None:
        return {"logits": base.logits}
    return {"mean": base.mean(), "stddev": base.stddev()}


def _by_mask(played: Evaluation, num_masks: int) -> Evaluation:
    """Reshape to `[K, E / K, …]`, and add the spread of the networks' mean returns."""
    rows = jax.tree.map(lambda x: x.reshape(num_masks, -1, *x.shape[1:]), played)
    spread_of_return = jnp.std(rows.episode_return.mean(axis=1))
    return eqx.tree_at(
        lambda e: e.spread.episode_return, rows, spread_of_return, is_leaf=lambda x: x is None
    )


def _max_steps(env: Environment, max_steps: int | None) -> int:
    limit = getattr(env, "time_limit", None) if max_steps is None else max_steps
    if limit is None:
        raise ValueError(
            f"{type(env).__name__} has no time_limit, so an episode might never end; "
            "give the number of steps after which to cut it: max_steps=1000"
        )
    return require_positive("max_steps", limit)


def _require_divisible(num_episodes: int, num_masks: int) -> None:
    if num_episodes % num_masks:
        near = max(1, round(num_episodes / num_masks)) * num_masks
        raise ValueError(
            f"num_episodes = {num_episodes} is not divisible by num_masks = {num_masks}, but "
            f"every network plays the same number; use {near}"
        )
