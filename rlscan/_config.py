"""`Config`: everything that decides a training run, from a YAML file and the command line."""

import argparse
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ._envs import check_name, did_you_mean
from ._frame_stack import check_num_frames
from ._loggers import LOGGERS, LoggerName
from ._observe_only import check_indices
from ._policy_config import PolicyConfig, check_policy_config, is_recurrent_kind
from ._ppo_config import PPOConfig, check_config
from ._random import Generator
from ._sweep import EXAMPLES, check_sweep, members_of
from ._train import count_updates


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
_GROUPS = {"env": EnvConfig, "policy": PolicyConfig, "ppo": PPOConfig}


def _leaves() -> dict[str, Any]:
    """The type of every value by its dotted key, such as `ppo.learning_rate`."""
    hints = {k: t for k, t in typing.get_type_hints(Config).items() if k not in _GROUPS}
    for group, cls in _GROUPS.items():
        hints |= {f"{group}.{k}": t for k, t in typing.get_type_hints(cls).items()}
    return hints


KEYS = _leaves()


def parse(argv: Sequence[str], *, prog: str = "train") -> Config:
    """The config that a command line asks for, checked; `output` is always set.

    **Arguments:**

    - `argv`: `--config FILE` and `--KEY VALUE`, in any number and order. Later ones win, and
        values over files, wherever they stand. Dashes and underscores in a key are the same, and
        a switch such as `--strict` may stand without a value.
    - `prog`: what `--help` calls the program.

    **Raises:** `ValueError`, in one line, for a file that cannot be read and a key or value that
    cannot be. `SystemExit` after `--help` and `--print_config`.
    """
    parser = _parser(prog)
    argv = _gathered("--sweep", _switched([underscored(argument) for argument in argv]))
    _check_options(argv)
    printing = [argument for argument in argv if argument.split("=")[0] == "--print_config"]
    files, overrides = _split([argument for argument in argv if argument not in printing])
    for file in files:
        _check_file(file)
        _explained(parser.parse_path, file, prefix=f"{file}: ")
    # jsonargparse lets the last one win, file or value.
    argv = [*(f"--config={file}" for file in files), *overrides]
    values = parser.instantiate(_explained(parser.parse_args, argv))
    config = Config(**{field.name: values[field.name] for field in dataclasses.fields(Config)})
    check(config)
    if printing:  # once it is known that it can run
        _explained(parser.parse_args, [*argv, *printing])
    if config.output is None:
        name = Path(files[-1]).stem if files else config.env.name
        output = f"runs/{name}-{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
        config = dataclasses.replace(config, output=output)
    return config


def check(config: Config) -> None:
    """Raises `ValueError` for a value that cannot be. Imports no environment."""
    try:
        check_name(config.env.name)
    except ValueError as error:
        raise ValueError(f"env.name: {error}") from None
    if config.env.observe is not None:
        check_indices("env.observe", config.env.observe)
    check_num_frames("env.frame_stack", config.env.frame_stack)
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


@cache
def _parser(prog: str) -> Any:
    import jsonargparse  # a quarter of a second, which `import rlscan` does without

    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,  # they are the texts of --help
        subclasses_disabled=[PPOConfig],  # else an eqx.Module is asked for as class_path, init_args
        instantiate_subclass_spec_in_any=False,  # env.params holds values, never classes to build
    )
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} --config FILE [--KEY VALUE ...]",
        description="Trains a policy with PPO, from a config to a run directory.",
        epilog="Dashes may be written for underscores: --ppo.learning-rate 1e-3. "
        f"`{prog} --resume RUN_DIR` goes on with a run that was stopped or killed. With --dry-run "
        "it is only said what the run would take.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of these keys.")
    parser.add_class_arguments(Config)
    for action in parser._actions:
        if action.dest in _GROUPS:  # --ppo FILE: a second way to say what --config says
            action.help = argparse.SUPPRESS
    return parser


def underscored(argument: str) -> str:
    """`--ppo.learning-rate=a-b` as `--ppo.learning_rate=a-b`."""
    if not argument.startswith("--"):
        return argument
    option, *value = argument[2:].split("=", 1)
    return "=".join(["--" + option.replace("-", "_"), *value])


def _switched(argv: Sequence[str]) -> list[str]:
    """`--debug` as `--debug=true`: a switch needs no value."""
    switches = {f"--{key}" for key, kind in KEYS.items() if kind is bool}
    return [
        f"{argument}=true" if argument in switches and following.startswith("--") else argument
        for argument, following in pairwise([*argv, "--"])
    ]


def _gathered(option: str, argv: Sequence[str]) -> list[str]:
    """An option that is given several times, as one of which the value is a list."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, action="append", dest="values")
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    return rest if options.values is None else [*rest, f"{option}={json.dumps(options.values)}"]


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """`(files, overrides)`: what `--config` names, and all the rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        options, overrides = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    return options.config, overrides


def _check_options(argv: Sequence[str]) -> None:
    for argument in argv:
        option = argument.split("=", 1)[0].removeprefix("--")
        if not argument.startswith("--") or option in ("config", "print_config", "help"):
            continue
        if not _is_key(option):
            raise ValueError(f"unknown option --{option}{_nearest(option)}")


def _is_key(key: str) -> bool:
    return key in KEYS or key.startswith("env.params.")


def _nearest(key: str) -> str:
    if key in _GROUPS:
        return f"; set its keys one by one, such as {next(k for k in KEYS if k.startswith(key))}"
    return did_you_mean(key, KEYS) or "; --help lists all"


def _check_file(path: str) -> None:
    """Raises `ValueError` if a config cannot be read, or has keys that are unknown or repeated."""
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        siblings = [p for p in Path(path).parent.glob("*.y*ml")]
        raise ValueError(f"no config file {path}{did_you_mean(path, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"cannot read the config file {path}: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ValueError(f"{path}{line}: not valid YAML, {_one_line(problem)}") from None
    if root is None:
        raise ValueError(f"{path} is empty; a config is a mapping, such as `seed: 0`")
    seen = set()
    for key, node, value in _walk(root, path):
        where = f"{path}:{node.start_mark.line + 1}"
        if not (key in _GROUPS or _is_key(key)):
            raise ValueError(f"{where}: unknown key {key}{_nearest(key)}")
        if key in seen:
            raise ValueError(f"{where}: {key} is given twice; keep one")
        if value.tag.endswith(":null") and key in KEYS and not _may_be_none(key):
            # jsonargparse would take it for a value not given.
            raise ValueError(f"{where}: {key} must be {_wanted(key)}, got nothing")
        seen.add(key)


def _walk(node: yaml.Node, path: str, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys of a config, with the nodes of key and value."""
    if not isinstance(node, yaml.MappingNode):
        what = f"{prefix[:-1]} must be" if prefix else "a config is"
        example = f"`{next(k for k in KEYS if k.startswith(prefix)).removeprefix(prefix)}: …`"
        raise ValueError(
            f"{path}:{node.start_mark.line + 1}: {what} a mapping, such as {example}, "
            f"got {node.value or 'nothing' if isinstance(node, yaml.ScalarNode) else 'a list'}"
        )
    for key_node, value in node.value:
        if key_node.tag != "tag:yaml.org,2002:str":
            raise ValueError(
                f"{path}:{key_node.start_mark.line + 1}: a key must be a name, such as seed, "
                f"got {_what_for_a_key(key_node)}"
            )
        key = f"{prefix}{key_node.value}"
        yield key, key_node, value
        if key in _GROUPS or _is_key(f"{key}.") and isinstance(value, yaml.MappingNode):
            yield from _walk(value, path, f"{key}.")


def _what_for_a_key(node: yaml.Node) -> str:
    if node.tag.endswith(":merge"):
        return "<<; write out what it would merge"
    if isinstance(node, yaml.ScalarNode):
        return node.value
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


_WANTED = {
    int: "an integer, written without point or exponent",
    float: "a number, such as 3e-4",
    bool: "true or false",
    dict: "a mapping, such as {gravity: 9.8}",
    tuple[int, ...]: "a list of integers, such as [64, 64]",
    tuple[str, ...]: f"a list, of entries such as {EXAMPLES}",
}


def _wanted(key: str) -> str:
    kind = KEYS[key]
    if key == "loggers":
        return f"a list of {' and '.join(LOGGERS)}, such as [{LOGGERS[0]}]"
    if isinstance(kind, types.UnionType):  # with None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    wanted = _WANTED.get(kind) or _WANTED.get(typing.get_origin(kind), "text")
    return f"{wanted} or .inf" if kind is float and _may_be_infinite(key) else wanted


def _may_be_none(key: str) -> bool:
    return type(None) in typing.get_args(KEYS[key])


def _may_be_infinite(key: str) -> bool:
    tree = to_dict(Config())
    *groups, name = key.split(".")
    node = tree[groups[0]] if groups else tree
    node[name] = math.inf
    try:
        check(from_dict(tree))
    except ValueError:
        return False
    return True


def _explained(parse: Callable[[Any], Any], what: Any, *, prefix: str = "") -> Any:
    """What jsonargparse makes of it, with its errors as ours."""
    from jsonargparse import ArgumentError

    try:
        return parse(what)
    except ArgumentError as error:
        raise ValueError(f"{prefix}{_explain(error)}") from None


def _explain(error: Exception) -> str:
    """jsonargparse's message in one line, with the type that the key wants."""
    match = re.match(r'Parser key "([^"]+)":.*(?:Got|Given) value: (.*)', str(error), re.DOTALL)
    if match is None or match[1] not in KEYS:
        return _one_line(error)
    return f"{match[1]} must be {_wanted(match[1])}, got {_one_line(match[2])}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
