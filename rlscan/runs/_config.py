"""`Config`: everything that decides a training run."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import yaml

from .._core.require import require_positive
from .._core.schema import require_plain, structured
from ..envs._make import check_name, keeps_state
from ..envs._wrappers import check_indices
from ..ppo._algorithm import count_updates
from ..ppo._config import SCHEDULED, PPOConfig, check_config
from ..ppo._schedule import Schedule
from ..random._keys import Generator
from ._arguments import require_types
from ._axes import PARAMS, split_sweep
from ._component import Component, is_own, name_of
from ._policy_config import (
    KINDS,
    PolicyConfig,
    check_policy_config,
    may_recur,
    without_other_kinds,
)
from ._schedules import checkable, read_schedule, schedule_tree
from ._sweep import check_sweep, count_settings, read_sweep


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment: one by name, or a class of your own and its arguments.

    Each argument of the class is a key: --env.size 3. `--env.help CLASS` lists them.
    """

    name: str | None = "CartPole-v1"
    """Name of the environment: one of rlscan.envs.ENVIRONMENTS, or of another suite, such as
    brax:ant; `rlscan envs` lists them."""
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Parameters of the environment, under the suite's names: {max_steps_in_episode: 200}."""
    class_path: str | None = None
    """Class of the environment, in place of a name, called as Reach(**init_args): my_module.Reach.
    --env is short for it."""
    init_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the class by name."""
    observe: tuple[int, ...] | None = None
    """Indices of the components of an observation that the policy sees, such as [0, 2]. It sees all
    of them if this is null."""
    frame_stack: int = 1
    """Number of most recent observations that the policy sees at once."""
    last_action_reward: bool = False
    """Whether the policy also sees the last action and the last reward."""

    @property
    def component(self) -> Component:
        """The class and its arguments; `rlscan.make` for an environment by name."""
        if self.class_path is None:
            return Component("rlscan.make", {"name": self.name, **self.params})
        return Component(self.class_path, self.init_args)

    @property
    def title(self) -> str:
        """What to call the environment on the screen."""
        return self.name or name_of(self.component)


Part = Literal["policy", "optimizer", "statistics"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The run."""

    env: EnvConfig = EnvConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    loss: Component | None = None
    """Loss in place of PPO's: a function of the form of rlscan.ppo.ppo_loss, or a class that is
    called so: my_module.my_loss."""
    optimizer: Component | None = None
    """Optimiser in place of Adam, called as f(learning_rate, **init_args) with the scheduled rate:
    optax.adamw. The gradient is clipped by ppo.max_grad_norm before."""
    on_batch: Component | None = None
    """Hook between the rollout and the update, which may change rewards, see rlscan.train."""
    algorithm: Component | None = None
    """Algorithm in place of PPO, called as A2C(**init_args); see rlscan.ppo.Algorithm. It has its
    own settings, so that those of ppo, loss, optimizer and on_batch do not apply."""
    callbacks: tuple[Component, ...] = ()
    """Callbacks, called between updates; see rlscan.runs.Callback. --callbacks may be repeated, and
    --callbacks.KEY VALUE gives an argument to the last."""
    seed: int = 0
    """Seed for all randomness in the run, from 0 to 2^32 - 1."""
    generator: Generator = "mix32"
    """Random number generator. mix32 is the fastest; threefry2x32 is JAX's default."""
    num_devices: int | None = None
    """Number of devices to split the work over; each CPU core counts as one. If null, the fastest
    number is chosen."""
    compile_cache: bool = True
    """Whether to keep compiled programs in the user's cache directory, so that later runs start
    faster."""
    total_steps: int = 500_000
    """Number of environment steps, summed over all environments. The run ends after the last whole
    update within it."""
    schedule_steps: int | None = None
    """Number of environment steps over which schedules, annealing and policy.dropout_end run. If
    null, it is total_steps. A run that is extended keeps its number."""
    init_from: str | None = None
    """Run directory, or a policy or checkpoint file, whose trained policy the run starts from."""
    init_parts: tuple[Part, ...] = ("policy",)
    """Parts of the state to start from: policy, optimizer, and statistics for those by which
    rewards are scaled."""
    output: str | None = None
    """Directory to write the run to. If null, it is runs/CONFIG-SEED-TIME."""
    log_interval: int = 1
    """Number of updates per row of the metrics."""
    loggers: tuple[Component, ...] = ()
    """Loggers that receive the metrics in addition to the files: tensorboard, wandb, or a class of
    your own, see rlscan.runs.Logger."""
    eval_interval: int = 0
    """Number of updates between evaluations, which are written to evaluations.csv; 0 means no
    evaluations."""
    eval_episodes: int = 64
    """Number of episodes per evaluation. They are played without dropout, and each action is the
    mode of its distribution."""
    strict: bool = False
    """Whether to stop the run if the policy being updated is not the policy that acted, as measured
    by audit_error."""
    debug: bool = False
    """Whether to name the first number that is not finite if the run diverges (exit status 3)."""
    checkpoint_interval: float = 30.0
    """Seconds of training between checkpoints. `.inf` saves only at the end; 0 saves after every
    call."""
    keep_checkpoints: int = 2
    """Number of most recent checkpoints to keep, in addition to the one with the best return."""
    num_seeds: int = 1
    """Number of runs to train side by side, with the seeds seed, seed + 1, and so on."""
    sweep: tuple[str, ...] = ()
    """Values of a setting to train side by side: a list such as ppo.learning_rate=1e-4,3e-4,
    policy.dropout=0,0.1 or env.params.gravity=9.8,20, or a range to sample from, such as
    ppo.gamma=0.9..0.999 or ppo.learning_rate=log:1e-4..1e-2. Several are a grid; every combination
    is trained with every seed. What shapes the program, such as policy.hidden_sizes=[32],[64], is
    trained one value after the other, each in a directory of its own."""
    num_samples: int = 8
    """Number of samples drawn from the swept ranges."""
    allow: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """Modules whose classes may be built, beside those of rlscan. It is no part of the run."""


MOST_RUNS = 2**14
"""The most runs that are trained side by side."""

# The largest value of each integer; else it is that of int32, by which JAX counts and indexes. What
# is written out when a program is traced must be small, and two have bounds of their own.
_MOST = {
    "env.frame_stack": 1000,
    "policy.num_layers": 1000,
    "seed": None,
    "total_steps": None,
    "schedule_steps": None,
}

GROUPS = {"env": EnvConfig, "policy": PolicyConfig, "ppo": PPOConfig}


class Call(typing.NamedTuple):
    """How rlscan calls the component at a key of the config."""

    num_positional: int = 0  # arguments that come first
    given: tuple[str, ...] = ()  # arguments by name
    may_lack: bool = False  # whether what is required comes later, as for a loss


# The keys whose values are classes or functions with arguments, and those that are lists of them.
COMPONENTS = {
    "env": Call(),
    "policy": Call(1, ("key",)),
    "loss": Call(may_lack=True),
    "optimizer": Call(1),
    "on_batch": Call(may_lack=True),
    "algorithm": Call(),
}
LISTS = {"callbacks": Call(given=("directory",)), "loggers": Call(given=("directory", "config"))}

LOGGER_CLASSES = {
    "tensorboard": "rlscan.runs.TensorBoardLogger",
    "wandb": "rlscan.runs.WandbLogger",
}
"""The loggers that have a name of their own."""

LOGGER_NAMES = {path: name for name, path in LOGGER_CLASSES.items()}

OF_PPO = ("ppo", "loss", "optimizer", "on_batch")
"""The keys of PPO, which another algorithm does not read."""


def _leaves() -> dict[str, Any]:
    """The type of every value by its dotted key, such as `ppo.learning_rate`."""
    no_values = {*GROUPS, *COMPONENTS, *LISTS, "allow"}
    hints = {k: t for k, t in typing.get_type_hints(Config).items() if k not in no_values}
    for group, cls in GROUPS.items():
        values = typing.get_type_hints(cls).items()
        hints |= {f"{group}.{k}": t for k, t in values if k not in ("class_path", "init_args")}
    return hints


KEYS = _leaves()


def check(config: Config) -> None:
    """Raise `ValueError` for an invalid value. Does not import the environment."""
    if (config.env.name is None) == (config.env.class_path is None):
        raise ValueError("env must have either a name or a class_path; give one of them")
    if config.env.name is not None:
        with prefixed("env.name: "):
            check_name(config.env.name)
    if config.env.observe is not None:
        check_indices("env.observe", config.env.observe)
    require_positive("env.frame_stack", config.env.frame_stack)
    require_plain("env.params", config.env.params)
    require_plain("env.init_args", config.env.init_args)
    require_plain("policy.init_args", config.policy.init_args)
    with prefixed("policy."):
        check_policy_config(config.policy)
    ppo = checkable(config.ppo)
    _check_size_of_update(ppo)
    with prefixed("ppo."):
        check_config(ppo, recurrent=may_recur(config.policy))
    if config.algorithm is None:
        count_updates(config.total_steps, ppo)
        if config.schedule_steps is not None:
            with prefixed("schedule_steps: "):
                count_updates(config.schedule_steps, ppo)
    _check_magnitudes(config)
    for name in ("log_interval", "eval_episodes", "keep_checkpoints", "num_seeds", "num_samples"):
        require_positive(name, getattr(config, name))
    if config.num_devices is not None:
        require_positive("num_devices", config.num_devices)
    if config.eval_interval < 0:
        raise ValueError(
            f"eval_interval must be 0 or a positive integer, got {config.eval_interval}; "
            "0 means no evaluations"
        )
    if not config.checkpoint_interval >= 0:
        raise ValueError(
            "checkpoint_interval must be 0 or more seconds, or .inf, "
            f"got {config.checkpoint_interval}"
        )
    if config.output == "":
        raise ValueError("output must name a directory, got nothing; such as runs/first")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be from 0 to {2**32 - 1}, got {config.seed}")
    if config.seed + config.num_seeds > 2**32:
        raise ValueError(
            f"seed + num_seeds must be at most {2**32}, got {config.seed + config.num_seeds}; "
            "use smaller ones"
        )
    _check_members(config)
    if config.init_from is None and config.init_parts != ("policy",):
        raise ValueError("init_parts says what to take from another run; give its init_from, too")
    if config.algorithm is not None:
        _check_without_ppo(config)


def _check_without_ppo(config: Config) -> None:
    """Raise `ValueError` for a setting that only PPO has, beside another algorithm."""
    only = {
        "strict": config.strict,
        "debug": config.debug,
        "sweep": bool(config.sweep),
        "policy.dropout_end": config.policy.dropout_end is not None,
        "schedule_steps": config.schedule_steps is not None,
        "init_from": config.init_from is not None,
    }
    for name in (name for name, is_given in only.items() if is_given):
        raise ValueError(
            f"{name} is a setting of PPO, but algorithm is {config.algorithm.class_path}; leave "  # pyright: ignore
            "it out"
        )


def _check_size_of_update(ppo: PPOConfig) -> None:
    # Before `check_config`, which would search for divisors of it.
    num_steps = ppo.num_envs * ppo.num_steps
    if num_steps >= 2**31:  # JAX indexes arrays with int32
        raise ValueError(
            f"ppo.num_envs * num_steps must be at most {2**31 - 1}, got {num_steps}; "
            "use fewer of either"
        )


def _check_magnitudes(config: Config) -> None:
    """Raise `ValueError` for a number that int32 or float32 cannot hold."""
    least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    values = {key: attrgetter(key)(config) for key in KEYS}
    values |= {f"policy.{name}": value for name, value in config.policy.init_args.items()}
    for key, number in values.items():
        limit = _MOST.get(key, 2**31 - 1)
        for count in number if isinstance(number, tuple | list) else (number,):
            if isinstance(count, int) and limit is not None and abs(count) > limit:
                raise ValueError(f"{key} must be at most {limit}, got {count}")
        if not isinstance(number, float) or number == 0 or not math.isfinite(number):
            continue
        if not least <= abs(number) <= most:
            raise ValueError(
                f"{key} must be a number of float32, from {least:.2g} to {most:.2g} in size, "
                f"got {number!r}"
            )


def _check_members(config: Config) -> None:
    """Raise `ValueError` for an invalid sweep, and for runs that cannot be split over devices."""
    # They are counted before they are made: a number of them may be a slip.
    together = split_sweep(config.sweep, config.policy, config.env)[0]
    num_settings = count_settings(together, num_samples=config.num_samples)
    num_runs, num_devices = num_settings * config.num_seeds, config.num_devices or 1
    if num_runs > MOST_RUNS:
        raise ValueError(
            f"num_seeds, num_samples and sweep must make at most {MOST_RUNS} runs side by side, "
            f"got {num_runs}; use fewer"
        )
    settings = read_sweep(together, num_samples=config.num_samples, seed=config.seed)
    check_sweep(checkable(config.ppo), settings)
    _check_rates(config, settings)
    if config.eval_interval and any(key.startswith(PARAMS) for key in settings[0]):
        raise ValueError(
            "eval_interval evaluates all runs in one environment, but env.params is swept; leave "
            "it out, and use `rlscan evaluate` afterwards"
        )
    if keeps_state(config.env.name) and max(num_runs, num_devices) > 1:
        raise ValueError(
            f"{config.env.name} runs outside of JAX, so one program must step it on one device, "
            f"got {num_runs} runs on {num_devices} devices; start a run for each seed or setting, "
            "with num_devices=1"
        )
    if num_runs > 1 and num_runs % num_devices:
        raise ValueError(
            f"num_devices = {num_devices} does not divide the {num_runs} runs that are split over "
            "them; use another number of either"
        )


def _check_rates(config: Config, settings: Sequence[Mapping[str, float]]) -> None:
    """Raise `ValueError` for a swept number that the policy does not accept."""
    rates = [key for key in settings[0] if key.startswith("policy.")]
    if "policy.dropout" in rates and config.policy.dropout_end is not None:
        raise ValueError("sweep of policy.dropout: it changes to policy.dropout_end; leave one out")
    for key, end in itertools.product(rates, (min, max)):
        changed = {key.removeprefix("policy."): end(setting[key] for setting in settings)}
        init_args = {**config.policy.init_args, **changed}
        with prefixed("sweep: policy."):
            check_policy_config(dataclasses.replace(config.policy, init_args=init_args))


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Put the key of the config before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def follows_horizon(config: Config) -> bool:
    """Whether anything in a run depends on its length: annealing, or a schedule."""
    ppo = config.ppo
    return config.algorithm is None and (
        ppo.anneal_learning_rate
        or config.policy.dropout_end is not None
        or any(isinstance(getattr(ppo, name), Schedule) for name in SCHEDULED)
    )


def is_config(tree: Any) -> bool:
    """Whether settings in a file are those of a `Config`, rather than of a user's own loop."""
    return isinstance(tree, dict) and {"env", "policy"} <= tree.keys()


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries, lists and numbers.

    `output` is left out, because a run in another directory is still the same run, and so is
    `allow`.
    """
    tree = dataclasses.asdict(config, dict_factory=_with_lists)
    tree["ppo"] |= {name: schedule_tree(getattr(config.ppo, name)) for name in SCHEDULED}
    for name in ("output", "allow", *(OF_PPO if config.algorithm else ())):
        del tree[name]
    return tree


def _with_lists(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(x) if isinstance(x, tuple) else x for name, x in fields}


def from_dict(tree: Any, *, allow: Sequence[str] = ()) -> Config:
    """The inverse of `to_dict`. Missing keys have their default values.

    **Raises:** `ValueError` for an unknown key, or a value of another type.
    """
    tree = _modern(tree)
    numbers, schedules = _split_schedules(tree)
    config = structured(numbers, Config, "config")
    if schedules:
        made = {
            name: read_schedule(one, key=f"config.ppo.{name}", allow=allow)
            for name, one in schedules.items()
        }
        config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, **made))
    for name, call in COMPONENTS.items():
        component = getattr(config, name)
        if component is not None and component.class_path and is_own(component.class_path):
            plain = Component(component.class_path, component.init_args)
            given = {"num_positional": call.num_positional, "given": call.given}
            require_types(plain, key=f"config.{name}", **given)
    return dataclasses.replace(config, allow=tuple(allow))


def _split_schedules(tree: Any) -> tuple[Any, dict[str, Any]]:
    """The tree of a config without the schedules of PPO's settings, and these by name."""
    ppo = tree.get("ppo") if isinstance(tree, dict) else None
    if not isinstance(ppo, dict):
        return tree, {}
    schedules = {k: x for k, x in ppo.items() if k in SCHEDULED and isinstance(x, dict)}
    return {**tree, "ppo": {k: x for k, x in ppo.items() if k not in schedules}}, schedules


def _modern(tree: Any) -> Any:
    """A tree of today from one whose policy is told by its kind, as early runs wrote it."""
    policy = tree.get("policy") if isinstance(tree, dict) else None
    if not isinstance(policy, dict) or policy.get("kind") not in KINDS:
        return tree
    class_path, fixed = KINDS[policy["kind"]]
    rest = {
        name: policy[name] for name in ("dropout_end", "normalize_observations") if name in policy
    }
    given = {name: x for name, x in policy.items() if name != "kind" and name not in rest}
    init_args = {**without_other_kinds(class_path, given), **fixed}
    loggers = [{"class_path": LOGGER_CLASSES.get(x, x)} for x in tree.get("loggers", ())]
    policy = {"class_path": class_path, "init_args": init_args, **rest}
    return {**tree, "policy": policy, "loggers": loggers}


def to_yaml(config: Config) -> str:
    """The text of a file for `--config`."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)
