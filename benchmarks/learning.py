"""What a config learns: the return in the last tenth of training, over seeds.

    python -m benchmarks.learning [--config configs/cartpole.yaml] [--num-seeds 10] [--json FILE]

Seeds are trained side by side in one compiled program, each as `scripts/train.py --seed` would. The
score of a seed is the mean return of the episodes that ended in the last tenth of its updates: of
the policy that learns, sampling its actions, dropout on. Tune on other seeds than those reported
(`--first-seed 1000`).
"""

import argparse
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan
from benchmarks._timing import write_json
from rlscan._build import build_policy
from rlscan._config import Config, parse


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/cartpole.yaml", help="what is trained")
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--iqm-at-least", type=float, help="fail if the IQM is lower")
    parser.add_argument("--worst-at-least", type=float, help="fail if any seed is lower")
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it runs")
    parser.add_argument("--json", metavar="FILE", help="keep the figures in this file")
    args, overrides = parser.parse_known_args(argv)
    if args.smoke:
        args.num_seeds, overrides = 2, [*overrides, "--total-steps", "4096"]
    config = parse(["--config", args.config, *overrides])

    seeds = np.arange(args.first_seed, args.first_seed + args.num_seeds)
    metrics, seconds = train(config, seeds)
    scores = last_tenth(metrics["episode_return"], metrics["num_episodes"])
    figures = {
        "seeds": seeds.tolist(),
        "scores": scores.tolist(),
        "iqm": float(rlscan.iqm(scores)),
        "interval": rlscan.bootstrap_interval(scores),
        "worst": float(scores.min()),
        "audit_log_ratio": float(metrics["audit_log_ratio"].max()),
        "audit_clip_fraction": float(metrics["audit_clip_fraction"].max()),
        **seconds,
    }
    show(config, figures)
    settings = {"config": args.config, "overrides": overrides, "total_steps": config.total_steps}
    write_json(args.json, "learning", settings, figures)
    for name, bar in (("iqm", args.iqm_at_least), ("worst", args.worst_at_least)):
        if bar is not None and not figures[name] >= bar:
            sys.exit(f"{name} {figures[name]:.1f} is below {bar}")


def train(config: Config, seeds: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The metrics `[seeds, updates]` of all runs, and how long compiling and running took."""
    env = rlscan.make(config.env.name, **config.env.params)

    @eqx.filter_jit
    @eqx.filter_vmap
    def run(seed: jax.Array) -> rlscan.Metrics:
        policy_key, train_key = jax.random.split(rlscan.key(seed))
        policy = build_policy(config, env, key=policy_key)
        total_steps = config.total_steps
        return rlscan.train_scan(policy, env, config.ppo, total_steps=total_steps, key=train_key)[1]

    start = time.perf_counter()
    jitted: Any = run
    compiled = jitted.lower(jnp.asarray(seeds)).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    metrics = jax.device_get(compiled(jnp.asarray(seeds)))
    run_seconds = time.perf_counter() - start
    return metrics, {"compile_seconds": compile_seconds, "run_seconds": run_seconds}


def last_tenth(episode_return: np.ndarray, num_episodes: np.ndarray) -> np.ndarray:
    """Mean return of the episodes that ended in the last tenth of the updates, of each seed."""
    num_updates = episode_return.shape[1]
    last = slice(num_updates - max(1, num_updates // 10), None)
    weights = num_episodes[:, last]
    total = np.where(weights > 0, episode_return[:, last] * weights, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):  # no episode ended: NaN
        return total / weights.sum(axis=1)


def show(config: Config, figures: dict) -> None:
    low, high = figures["interval"]
    print(f"{config.env.name}, {config.total_steps} steps, dropout {config.policy.dropout}")
    print("return in the last tenth of training, by seed:")
    print("  " + "  ".join(f"{score:.1f}" for score in figures["scores"]))
    print(f"IQM {figures['iqm']:.1f} [{low:.1f}, {high:.1f}], worst seed {figures['worst']:.1f}")
    print(
        f"before the first gradient step of every update: max |log ratio| "
        f"{figures['audit_log_ratio']:.1e}, clip fraction {figures['audit_clip_fraction']:g}"
    )
    print(f"compiled in {figures['compile_seconds']:.1f} s, ran {figures['run_seconds']:.1f} s")


if __name__ == "__main__":
    main()
