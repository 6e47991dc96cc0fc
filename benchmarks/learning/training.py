"""Training of a config's seeds side by side, and the score of each."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan
from rlscan.runs._build import build_env, build_policy
from rlscan.runs._config import Config


def train(config: Config, seeds: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Train all seeds: the metrics `[seeds, updates]`, and the seconds of compiling and running."""
    env = build_env(config)

    @eqx.filter_jit
    @eqx.filter_vmap
    def run(seed: jax.Array) -> rlscan.ppo.Metrics:
        policy_key, train_key = jax.random.split(rlscan.key(seed, generator=config.generator))
        policy = build_policy(config, env, key=policy_key)
        total_steps = config.total_steps
        return rlscan.ppo.train_scan(
            policy, env, config.ppo, total_steps=total_steps, key=train_key
        )[1]

    start = time.perf_counter()
    jitted: Any = run
    compiled = jitted.lower(jnp.asarray(seeds)).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    metrics = jax.device_get(compiled(jnp.asarray(seeds)))
    run_seconds = time.perf_counter() - start
    return metrics, {"compile_seconds": compile_seconds, "run_seconds": run_seconds}


def last_tenth(episode_return: np.ndarray, num_episodes: np.ndarray) -> np.ndarray:
    """The mean return of each seed, over episodes that ended in the last tenth of the updates."""
    num_updates = episode_return.shape[1]
    last = slice(num_updates - max(1, num_updates // 10), None)
    weights = num_episodes[:, last]
    total = np.where(weights > 0, episode_return[:, last] * weights, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):  # no episode ended: NaN
        return total / weights.sum(axis=1)
