"""What a rollout carries and returns."""

from typing import Literal

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, Key

from .._core.types import Policy, PyTree


class RolloutState(eqx.Module):
    """Where N environments stand between two steps: the whole carry, and what to checkpoint."""

    # What environment and policy know. Every leaf is [N, …].
    env_state: PyTree
    observation: PyTree  # what the policy sees next
    policy_state: PyTree  # reset already where an episode has just ended

    # Randomness, one stream per environment, so that no trajectory depends on N or on order.
    key: Key[Array, "*N"]  # of actions and environments; split at every step
    noise_key: Key[Array, "*N"]  # of policy keys; split for each new one
    policy_key: Key[Array, "*N"]  # for the policy's next call, whoever makes it

    # The episode under way.
    episode_return: Float[Array, "*N"]  # undiscounted reward so far
    episode_length: Int[Array, "*N"]  # environment steps so far


class FinalObservations(eqx.Module):
    """What truncated episodes saw last, kept to bootstrap from: K slots per environment.

    An episode cut by its time limit L has lasted L steps. So an environment is truncated at most
    once in each block of L steps, and K = ⌈T / L⌉ slots are enough: step t uses slot ⌊t / L⌋.
    """

    # Every leaf is [K, N, …].
    step: Int[Array, "*K_N"]  # t of the truncated step; T in a slot that was not needed
    observation: PyTree
    policy_state: PyTree  # after the truncated step
    policy_key: Key[Array, "*K_N"]  # of the truncated step


class Trajectory(eqx.Module):
    """T steps of N environments. The environment axis is the second of every leaf.

    So `jax.tree.map(lambda x: x[:, :4], trajectory)` is the trajectory of the first four.

    Its bytes per transition, which `rlscan.transition_bytes` finds from the shapes, are

        o + a + v + k + 18 + (K (o + s + k + 4) + s) / T,    K = ⌈T / min(L, T)⌉,

    of an observation (o), an action (a), a key (k: 8 of `mix32` and of `threefry2x32`), and what
    only a recurrent policy has, its value (v) and its state (s). The 18 are log_prob, reward and
    the episode's return and length, of 4 each, and two flags. L is the environment's time limit,
    and 1 where it declares none. Masks and other noise take nothing, whatever the network is.
    """

    # What happened. Every leaf is [T, N, …].
    observation: PyTree  # what the policy saw
    action: PyTree  # the distribution's own sample, not the legal form that was sent
    log_prob: Float[Array, "*T_N"]  # log π(action | observation, policy_key), in nats
    reward: Float[Array, "*T_N"]
    terminated: Bool[Array, "*T_N"]  # the episode came to its own end: nothing follows
    truncated: Bool[Array, "*T_N"]  # the episode was cut short: more would have followed

    # The episode so far, this step included; read them where an episode ended.
    episode_return: Float[Array, "*T_N"]
    episode_length: Int[Array, "*T_N"]

    # What replay needs: not the noise itself, only the key that it came from.
    policy_key: Key[Array, "*T_N"]
    value: PyTree  # [T, N, …] of a recurrent policy; else `None`, as replay recomputes it
    initial_policy_state: PyTree  # [1, N, …] at t = 0; no leaves for a feed-forward policy

    # What the value of a truncated episode's last observation needs, [K, N, …].
    final: FinalObservations | None


KeySchedule = Literal["step", "episode", "rollout"]


KEY_SCHEDULES: tuple[KeySchedule, ...] = ("step", "episode", "rollout")


def is_recurrent(policy: Policy) -> bool:
    """Whether the policy carries a state from step to step."""
    return len(jax.tree.leaves(policy.initial_state())) > 0
