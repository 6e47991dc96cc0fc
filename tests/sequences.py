"""Rollouts of policies with a memory, and planted defects that a replay must not accept."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

N, T = 3, 16

jit_rollout = eqx.filter_jit(rlscan.rollout)
jit_replay = eqx.filter_jit(rlscan.replay)


def roll(policy: Any, env: Any, num_rollouts: int = 2, num_steps: int = T) -> list[Any]:
    """Return `(state before, state after, trajectory)` of consecutive rollouts."""
    state, rolled = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0)), []
    for _ in range(num_rollouts):
        before = state
        state, trajectory = jit_rollout(policy, env, state, num_steps)
        rolled.append((before, state, trajectory))
    return rolled


def lively(policy: Any) -> Any:
    """Give the actor a gain of about 1, because a small one would hide a wrong mask or state."""
    last = lambda p: (p.actor.layers[-1] if hasattr(p.actor, "layers") else p.actor).weight  # noqa: E731
    return eqx.tree_at(last, policy, replace_fn=lambda weight: 100 * weight)


def error(policy: Any, trajectory: Any, acted: Any) -> float:
    return float(np.abs(jit_replay(policy, trajectory)[0] - acted.log_prob).max())


def planted_defects(trajectory: Any) -> dict[str, Any]:
    """Make trajectories that a replay must not mistake for the recorded one."""
    keys = trajectory.policy_key
    done = trajectory.terminated | trajectory.truncated
    late, early = (jnp.roll(done, shift, axis=0) for shift in (1, -1))

    def ends(terminated: Any) -> Any:
        truncated = jnp.zeros_like(terminated)
        return dataclasses.replace(trajectory, terminated=terminated, truncated=truncated)

    def with_keys(policy_key: Any) -> Any:
        return dataclasses.replace(trajectory, policy_key=policy_key)

    started = jax.tree.map(jnp.zeros_like, trajectory.initial_policy_state)
    return {
        "no reset": ends(done & False),
        "truncation does not reset": ends(trajectory.terminated),
        "reset late": ends(late),
        "reset early": ends(early),
        "another start": dataclasses.replace(trajectory, initial_policy_state=started),
        "permuted keys": with_keys(keys[:, ::-1]),
        "keys off by one": with_keys(jnp.roll(keys, 1, axis=0)),
        "fresh keys": with_keys(jax.random.split(rlscan.key(9), keys.shape)),
    }


class StepByStep(eqx.Module):
    """A policy without its `unroll`, so that `replay` calls it step by step."""

    policy: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        return self.policy(observation, state, key=key)

    def initial_state(self) -> Any:
        return self.policy.initial_state()


def assert_unrolled(policy: Any, env: Any, *, atol: float, gradient_tolerance: float) -> None:
    """Compare the outputs of an unrolled replay, and their gradient, with a step-by-step one."""
    _, (_, _, trajectory) = roll(policy, env)

    def outputs(policy: Any) -> Any:
        return jnp.stack(rlscan.replay(policy, trajectory))

    unrolled, stepped = (eqx.filter_jit(outputs)(p) for p in (policy, StepByStep(policy)))
    np.testing.assert_allclose(unrolled, stepped, atol=atol)
    slope = eqx.filter_jit(eqx.filter_grad(lambda policy: jnp.sin(outputs(policy)).sum()))
    gradients = slope(policy), slope(StepByStep(policy)).policy
    tolerance = gradient_tolerance
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def seen_last(env: Any, before: Any, trajectory: Any) -> np.ndarray:
    """Replay all actions for the last observation of each step `[T, N, …]`, before any reset."""

    @jax.jit
    @jax.vmap
    def again(stream: Any, env_state: Any, action: Any) -> Any:
        stream, _, env_key = jax.random.split(stream, 3)
        _, env_state, *_, info = env.step(env_key, env_state, action)
        return stream, env_state, info["final_observation"]

    stream, env_state, seen = before.key, before.env_state, []
    for action in trajectory.action:
        stream, env_state, last = again(stream, env_state, action)
        seen.append(last)
    return np.stack(seen)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def mask(key: Any, rate: float, shape: Any) -> np.ndarray:
    """The factors of dropout: 0 or 1 / (1 − rate)."""
    return np.asarray(jax.random.bernoulli(key, 1 - rate, shape)) / (1 - rate)
