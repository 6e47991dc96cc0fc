"""Run directories as a run leaves them, made without training."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import rlscan
from rlscan.runs._build import build_policy
from rlscan.runs._config import Config, EnvConfig, PolicyConfig, to_yaml
from rlscan.runs._metrics_files import COLUMNS
from rlscan.runs._policy_file import POLICY_FILE, save_policy

CONFIG = Config(
    env=EnvConfig("CartPole-v1", {"max_steps_in_episode": 20}),
    policy=PolicyConfig(hidden_sizes=(8,), dropout=0.5),
    compile_cache=False,
)


def with_policy(directory: Path, config: Config = CONFIG, **changes: Any) -> Path:
    """Make a run directory with an untrained policy."""
    config = with_config(directory, config, **changes)
    env = rlscan.make(config.env.name, **config.env.params)
    (directory / POLICY_FILE).parent.mkdir()
    save_policy(directory / POLICY_FILE, build_policy(config, env, key=rlscan.key(1)), config)
    return directory


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
    extra = [name for name in rows[0] if name not in COLUMNS]
    with open(directory / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, [*extra, *COLUMNS], lineterminator="\n")
        table.writeheader()
        table.writerows({**dict.fromkeys(COLUMNS, 0.0), "num_episodes": 1, **row} for row in rows)
    return directory
