"""Run directories as a run leaves them, made without training."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import jax

import rlscan
from rlscan.ppo._runs_axis import over_runs
from rlscan.runs._build import build_policy
from rlscan.runs._config import Config, EnvConfig, to_yaml
from rlscan.runs._metrics_files import COLUMNS
from rlscan.runs._policy_config import policy_config
from rlscan.runs._policy_file import POLICY_FILE, save_policy

CONFIG = Config(
    env=EnvConfig("CartPole-v1", {"max_steps_in_episode": 20}),
    policy=policy_config(hidden_sizes=(8,), dropout=0.5),
    compile_cache=False,
)


def with_policy(directory: Path, config: Config = CONFIG, **changes: Any) -> Path:
    """Make a run directory with an untrained policy, or with those of several seeds."""
    config = with_config(directory, config, **changes)
    (directory / POLICY_FILE).parent.mkdir()
    save_policy(directory / POLICY_FILE, untrained(config, rlscan.key(1)), config)
    return directory


def untrained(config: Config, key: Any) -> Any:
    """The policy of a config, with an axis in front of its arrays for several seeds."""
    env = rlscan.make(str(config.env.name), **config.env.params)
    axis = () if config.num_seeds == 1 else (config.num_seeds,)
    build = over_runs(lambda key: build_policy(config, env, key=key), axis)
    return build(jax.random.split(key, axis) if axis else key)


def with_config(directory: Path, config: Config = CONFIG, **changes: Any) -> Config:
    config = dataclasses.replace(config, **changes)
    directory.mkdir()
    (directory / "config.yaml").write_text(to_yaml(config))
    return config


def with_metrics(
    directory: Path, rows: list[dict[str, Any]], config: Config = CONFIG, **changes: Any
) -> Path:
    """Make a run with these metrics; other columns are 0, and `num_episodes` is 1."""
    with_config(directory, config, **changes)
    return add_metrics(directory, rows)


def add_metrics(directory: Path, rows: list[dict[str, Any]]) -> Path:
    extra = [name for name in rows[0] if name not in COLUMNS]
    with open(directory / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, [*extra, *COLUMNS], lineterminator="\n")
        table.writeheader()
        table.writerows({**dict.fromkeys(COLUMNS, 0.0), "num_episodes": 1, **row} for row in rows)
    return directory
