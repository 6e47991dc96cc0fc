"""`Config`: everything that decides a training run."""

import dataclasses
import math
import typing
from operator import attrgetter
from typing import Any

import numpy as np
import yaml

from .._core.require import require_positive
from ..envs._gymnax import check_name
from ..envs._wrappers import check_indices
from ..ppo._config import PPOConfig, check_config
from ..ppo._train import count_updates
from ..random._keys import Generator
from ._loggers import LoggerName
from ._policy_config import PolicyConfig, check_policy_config, is_recurrent_kind
from ._sweep import check_sweep, members_of


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment."""

    name: str = "CartPole-v1"
    """One of rlscan.ENVIRONMENTS."""
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its parameters by gymnax's names, such as {max_steps_in_episode: 200}."""
    observe: tuple[int, ...] | None = None
    """Indices of the numbers of an observation that are seen, such as [0, 2]; all if not given."""
    frame_stack: int = 1
    """How many of the last observations are seen at once."""
    last_action_reward: bool = False
    """Whether the last action and reward are seen beside the observation."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run."""

    env: EnvConfig = EnvConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    seed: int = 0
    """Of everything random in the run, from 0 to 2^32 - 1."""
    generator: Generator = "mix32"
    """Of its random numbers: mix32 is the lightest, threefry2x32 is JAX's own."""
    num_devices: int | None = None
    """Over which environments are split, cores being devices too; if not given, what is fastest."""
    compile_cache: bool = True
    """Whether compiled programs are kept for later runs, in the user's cache directory."""
    total_steps: int = 500_000
    """Environment steps, over all environments; the run ends with the last whole update."""
    output: str | None = None
    """Run directory; runs/CONFIG-SEED-TIME if not given."""
    log_interval: int = 1
    """Updates per row of the metrics."""
    loggers: tuple[LoggerName, ...] = ()
    """Where the rows go beside the run directory's files, such as [tensorboard, wandb]."""
    eval_interval: int = 0
    """Updates per evaluation, which goes to evaluations.csv; 0 for none."""
    eval_episodes: int = 64
    """Whole episodes per evaluation, without dropout, by the mode of the distribution."""
    strict: bool = False
    """Whether to stop if the policy of an update is not the one that acted (see audit_error)."""
    debug: bool = False
    """Whether to name the number that was not finite first, if the run diverges (exit status 3)."""
    checkpoint_interval: float = 30.0
    """Seconds of training between checkpoints, which --resume goes on from; .inf for none but at
    the end, 0 for all that can be."""
    keep_checkpoints: int = 2
    """How many of the last ones are kept, beside the one with the best return."""
    num_seeds: int = 1
    """Runs that are trained side by side, of the seeds seed, seed + 1 and so on."""
    sweep: tuple[str, ...] = ()
    """Numbers of PPO that differ between runs side by side: ppo.learning_rate=1e-4,3e-4, or a range
    to draw from, ppo.gamma=0.9..0.999 or ppo.learning_rate=log:1e-4..1e-2. Of several, all
    combinations are trained, each with all seeds."""
    num_samples: int = 8
    """How often is drawn from the ranges of a sweep."""


_LISTS = ("hidden_sizes", "num_channels")  # of a policy; in a file they are no tuples


GROUPS = {"env": EnvConfig, "policy": PolicyConfig, "ppo": PPOConfig}


def _leaves() -> dict[str, Any]:
    """The type of every value by its dotted key, such as `ppo.learning_rate`."""
    hints = {k: t for k, t in typing.get_type_hints(Config).items() if k not in GROUPS}
    for group, cls in GROUPS.items():
        hints |= {f"{group}.{k}": t for k, t in typing.get_type_hints(cls).items()}
    return hints


KEYS = _leaves()


def check(config: Config) -> None:
    """Raises `ValueError` for a value that cannot be. Imports no environment."""
    try:
        check_name(config.env.name)
    except ValueError as error:
        raise ValueError(f"env.name: {error}") from None
    if config.env.observe is not None:
        check_indices("env.observe", config.env.observe)
    require_positive("env.frame_stack", config.env.frame_stack)
    try:
        check_policy_config(config.policy)
    except ValueError as error:
        raise ValueError(f"policy.{error}") from None
    steps_per_update = config.ppo.num_envs * config.ppo.num_steps
    if steps_per_update >= 2**31:  # no array can be indexed there; and a divisor is sought below
        raise ValueError(
            f"ppo.num_envs * num_steps must be at most {2**31 - 1}, got {steps_per_update}; "
            "use fewer of either"
        )
    try:
        check_config(config.ppo, recurrent=is_recurrent_kind(config.policy))
    except ValueError as error:
        raise ValueError(f"ppo.{error}") from None
    count_updates(config.total_steps, config.ppo)
    _check_range(config)
    if config.log_interval < 1:
        raise ValueError(f"log_interval must be a positive integer, got {config.log_interval}")
    if config.eval_interval < 0:
        raise ValueError(
            f"eval_interval must be an integer from 0 on, got {config.eval_interval}; 0 is never"
        )
    if config.eval_episodes < 1:
        raise ValueError(f"eval_episodes must be a positive integer, got {config.eval_episodes}")
    if config.num_devices is not None and config.num_devices < 1:
        raise ValueError(f"num_devices must be a positive integer, got {config.num_devices}")
    if not config.checkpoint_interval >= 0:
        raise ValueError(
            "checkpoint_interval must be 0 or more seconds, or .inf, "
            f"got {config.checkpoint_interval}"
        )
    if config.keep_checkpoints < 1:
        raise ValueError(
            f"keep_checkpoints must be a positive integer, got {config.keep_checkpoints}"
        )
    if config.output == "":
        raise ValueError("output must name a directory, got nothing; such as runs/first")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be from 0 to {2**32 - 1}, got {config.seed}")
    for name in ("num_seeds", "num_samples"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be a positive integer, got {getattr(config, name)}")
    if config.seed + config.num_seeds > 2**32:
        raise ValueError(f"seed + num_seeds must be at most {2**32}; use smaller ones")
    members = members_of(config.seed, config.num_seeds, config.sweep, config.num_samples)
    check_sweep(config.ppo, members)
    num_runs, num_devices = len(members), config.num_devices or 1
    if num_runs > 1 and num_runs % num_devices:
        raise ValueError(
            f"num_devices = {num_devices} does not divide the {num_runs} runs that are split over "
            "them; use another number of either"
        )


def _check_range(config: Config) -> None:
    """Raises `ValueError` for what is a number here, but would be 0 or infinite in float32."""
    least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    for key in KEYS:
        number = attrgetter(key)(config)
        if not isinstance(number, float) or number == 0 or not math.isfinite(number):
            continue
        if not least <= abs(number) <= most:
            raise ValueError(
                f"{key} must be a number of float32, from {least:.2g} to {most:.2g} in size, "
                f"got {number!r}"
            )


def to_dict(config: Config) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers, without `output`: that is where a run was written,
    not what it was."""
    tree = dataclasses.asdict(config)
    del tree["output"]
    for name in _LISTS:
        tree["policy"][name] = list(tree["policy"][name])
    if config.env.observe is not None:
        tree["env"]["observe"] = list(config.env.observe)
    for name in ("sweep", "loggers"):
        tree[name] = list(tree[name])
    return tree


def from_dict(tree: dict[str, Any]) -> Config:
    """The config that `to_dict` was given, but for its `output`."""
    policy = {
        **tree["policy"],
        **{name: tuple(tree["policy"][name]) for name in _LISTS if name in tree["policy"]},
    }
    env = dict(tree["env"])
    if env.get("observe") is not None:
        env["observe"] = tuple(env["observe"])
    groups = {
        "env": EnvConfig(**env),
        "policy": PolicyConfig(**policy),
        "ppo": PPOConfig(**tree["ppo"]),
    }
    lists = {name: tuple(tree.get(name, ())) for name in ("sweep", "loggers")}
    return Config(**{**tree, **groups, **lists})


def to_yaml(config: Config) -> str:
    """A file for `--config`."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)
