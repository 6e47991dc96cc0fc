"""What a config learns: the return in the last tenth of training, over seeds.

    python -m benchmarks.learning [--config configs/cartpole.yaml] [--num-seeds 10] [--json FILE]
    python -m benchmarks.learning --config configs/cartpole.yaml --keep cartpole
    python -m benchmarks.learning --report               a table of everything that was kept

Seeds are trained side by side in one compiled program, each as `scripts/train.py --seed SEED
--num-devices 1` would train it. The score of a seed is the mean return of the episodes that ended
in the last tenth of its updates, while the policy learns: actions are sampled and dropout is on.
Tune on other seeds than the reported ones (`--first-seed 1000`).
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

import rlscan
from benchmarks import _results
from benchmarks._timing import record, write_json
from benchmarks.learning import report
from benchmarks.learning.training import last_tenth, train
from rlscan.runs._config import Config
from rlscan.runs._parse import parse

RESULTS = Path(__file__).parent / "results"

# Settings of a run that do not matter here: `--num-seeds` seeds run side by side on one device.
WITHOUT_EFFECT = ("seed", "num_seeds", "num_devices", "sweep", "num_samples", "strict", "debug")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/cartpole.yaml", help="the config to train")
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--iqm-at-least", type=float, help="fail if the IQM is lower")
    parser.add_argument("--worst-at-least", type=float, help="fail if any seed is lower")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    parser.add_argument("--keep", metavar="NAME", help="keep them under this name in results/")
    parser.add_argument("--report", action="store_true", help="write and print results/table.md")
    args, overrides = parser.parse_known_args(argv)
    if args.report:
        (RESULTS / "table.md").write_text(text := report.table(RESULTS))
        print(text)
        return
    if args.json is not None and os.path.lexists(args.json):
        parser.error(f"{args.json} exists already; name another, or remove it")
    if args.keep in _results.read(RESULTS):
        file = RESULTS / _results.FILE
        parser.error(f"{file} has {args.keep} already; name another, or remove its line")
    if args.smoke:
        args.num_seeds, overrides = 2, [*overrides, "--total-steps", "4096"]
    config = parse(["--config", args.config, *overrides])
    for name in WITHOUT_EFFECT:
        if getattr(config, name) != getattr(parse(["--config", args.config]), name):
            option = name.replace("_", "-")
            parser.error(f"--{option} has no effect on what is measured here; leave it out")

    seeds = np.arange(args.first_seed, args.first_seed + args.num_seeds)
    metrics, seconds = train(config, seeds)
    scores = last_tenth(metrics["episode_return"], metrics["num_episodes"])
    figures = {
        "seeds": seeds.tolist(),
        "scores": scores.tolist(),
        "iqm": float(rlscan.runs.iqm(scores)),
        "interval": rlscan.runs.bootstrap_interval(scores),
        "worst": float(scores.min()),
        "audit_log_ratio": float(metrics["audit_log_ratio"].max()),
        "audit_clip_fraction": float(metrics["audit_clip_fraction"].max()),
        **seconds,
    }
    show(config, figures)
    settings = {
        "config": args.config,
        "overrides": overrides,
        "total_steps": config.total_steps,
        "dropout": config.policy.init_args["dropout"],
    }
    content = record("learning", settings, figures)
    write_json(args.json, content)
    if args.keep is not None:
        _results.write(RESULTS, args.keep, content)
        print(f"kept as {args.keep} in {RESULTS / _results.FILE}")
    for name, bar in (("iqm", args.iqm_at_least), ("worst", args.worst_at_least)):
        if bar is not None and not figures[name] >= bar:
            sys.exit(f"{name} {figures[name]:.1f} is below {bar}")


def show(config: Config, figures: dict) -> None:
    low, high = figures["interval"]
    rate = config.policy.init_args["dropout"]
    print(f"{config.env.name}, {config.total_steps} steps, dropout {rate}")
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
