"""What a rollout carries, and what it returns."""

from typing import Literal

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, Key

from .._core.field_docs import with_field_docs
from .._core.roles import require_policy
from .._core.types import Policy, PyTree

KeySchedule = Literal["step", "episode", "rollout"]
KEY_SCHEDULES: tuple[KeySchedule, ...] = ("step", "episode", "rollout")


@with_field_docs
class RolloutState(eqx.Module):
    """N environments between two steps: the carry of the scan, and what a checkpoint must hold."""

    # The environments and the policy. Every leaf is [N, …].
    env_state: PyTree
    """The state of each environment."""
    observation: PyTree
    """What the policy sees next."""
    policy_state: PyTree
    """What the policy carries; already reset if an episode has just ended."""

    # Randomness. Each environment has its own streams, so no trajectory depends on N or on order.
    key: Key[Array, "*N"]
    """Keys for actions and environments, split at every step."""
    noise_key: Key[Array, "*N"]
    """Keys that are split to make each new policy key."""
    policy_key: Key[Array, "*N"]
    """The key of the policy's next call, whoever makes it."""

    # The current episode.
    episode_return: Float[Array, "*N"]
    """Undiscounted reward of the current episode so far."""
    episode_length: Int[Array, "*N"]
    """Environment steps of the current episode so far."""


@with_field_docs
class FinalObservations(eqx.Module):
    """The last observations of truncated episodes, to bootstrap from: K slots per environment.

    An episode truncated by its time limit L has lasted L steps. An environment is therefore
    truncated at most once in each block of L steps, and K = ⌈T / L⌉ slots are enough: step t uses
    slot ⌊t / L⌋. If an environment declares K itself, as `final_slots`, they are filled in order.
    """

    # Every leaf is [K, N, …].
    step: Int[Array, "*K_N"]
    """The time t of the truncated step; T in an unused slot."""
    observation: PyTree
    """The last observation of the episode."""
    policy_state: PyTree
    """What the policy carried after the truncated step."""
    policy_key: Key[Array, "*K_N"]
    """The policy's key of the truncated step."""


@with_field_docs
class Transition(eqx.Module):
    """One step of one environment; or many of them, with axes such as `[T, N]` in front."""

    # What happened.
    observation: PyTree
    """What the policy saw."""
    action: PyTree
    """The distribution's own sample, not the legal form that was sent."""
    log_prob: Float[Array, "*T_N"]
    """The log-probability log π(action | observation, policy_key), in nats."""
    reward: Float[Array, "*T_N"]
    """The reward of the step."""
    terminated: Bool[Array, "*T_N"]
    """Whether the episode ended by itself: nothing follows."""
    truncated: Bool[Array, "*T_N"]
    """Whether the episode was cut short: more would have followed."""

    # The episode so far; read them at steps that end an episode.
    episode_return: Float[Array, "*T_N"]
    """Undiscounted reward of the episode so far, this step included."""
    episode_length: Int[Array, "*T_N"]
    """Environment steps of the episode so far, this one included."""

    # What replay needs.
    policy_key: Key[Array, "*T_N"]
    """The key that the policy's noise was drawn from; replay needs it, not the noise."""
    value: PyTree
    """The value of a recurrent policy; otherwise `None`, since replay recomputes it."""


@with_field_docs
class Trajectory(Transition):
    """T steps of N environments: transitions `[T, N, …]`, and what surrounds them.

    The environment axis is the second of every leaf, so
    `jax.tree.map(lambda x: x[:, :4], trajectory)` is the trajectory of the first four.

    Its size per transition in bytes, which `rlscan.transition_bytes` finds from the shapes, is

        o + a + v + k + 18 + (K (o + s + k + 4) + s) / T,    K = ⌈T / min(L, T)⌉,

    for an observation (o), an action (a), a key (k: 8 for `mix32` and `threefry2x32`) and, for a
    recurrent policy only, its value (v) and state (s). The 18 bytes are log_prob, reward and the
    episode's return and length, 4 each, and two flags. L is the environment's time limit, or 1 if
    it declares none; K = min(T, `final_slots`) if it declares those. Dropout masks and other noise
    take no memory, however large the network is.
    """

    initial_policy_state: PyTree
    """What the policy carried at t = 0, `[1, N, …]`; no leaves if it is feed-forward."""
    final: FinalObservations | None
    """Last observations of truncated episodes, `[K, N, …]`; `None` in a part for replay alone."""


def is_recurrent(policy: Policy) -> bool:
    """Whether the policy carries a state from step to step; `TypeError` if it is no policy."""
    require_policy(policy)
    return len(jax.tree.leaves(policy.initial_state())) > 0
