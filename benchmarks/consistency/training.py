"""Training of a cell's seeds side by side, in a program that all arms share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import rlscan
from benchmarks.consistency.arms import Arm, ArmLoss, with_rate
from benchmarks.consistency.tasks import Task

# `program(seeds, arm) -> (metrics [seeds, updates], return without dropout [seeds])`
Program = Callable[[Array, Arm], tuple[rlscan.ppo.Metrics, Array]]


def make_program(task: Task) -> Program:
    """Make the program that trains a cell; it is compiled once for all arms."""
    env = rlscan.make(task.env)

    def run(seed: Array, arm: Arm) -> tuple[rlscan.ppo.Metrics, Array]:
        policy_key, train_key, evaluation_key = jax.random.split(rlscan.key(seed), 3)
        policy = with_rate(task.build(env, key=policy_key), arm.rollout_rate)
        config = eqx.tree_at(lambda c: c.target_kl, task.config, arm.target_kl)
        state, metrics = rlscan.ppo.train_scan(
            policy,
            env,
            config,
            total_steps=task.total_steps,
            key=train_key,
            loss=ArmLoss(arm),
        )
        trained = with_rate(state.policy, jnp.zeros(()))
        return metrics, evaluate(trained, env, task, key=evaluation_key)

    return eqx.filter_jit(eqx.filter_vmap(run, in_axes=(0, None)))


def evaluate(
    policy: Any, env: rlscan.Environment, task: Task, *, key: PRNGKeyArray, num_envs: int = 16
) -> Float[Array, ""]:
    """Mean return of one whole episode in each of N environments, with sampled actions."""
    state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=key)
    _, trajectory = rlscan.rollout(policy, env, state, task.episode_steps)
    ended = trajectory.terminated | trajectory.truncated
    first = ended & (jnp.cumsum(ended, axis=0) == 1)
    return jnp.where(first, trajectory.episode_return, 0).sum() / first.sum()
