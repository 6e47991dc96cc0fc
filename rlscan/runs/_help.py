"""`print_help`: the help of `rlscan train`, grouped by topic."""

import argparse
import dataclasses
import inspect
import typing
from typing import Any

from ._arguments import arguments_of, as_text, describe_arguments
from ._component import ANYTHING, find
from ._config import COMPONENTS, GROUPS, KEYS, LISTS, Call, Config
from ._policy_config import KINDS
from ._values import is_union

# The keys of a run by topic. Those of the environment, the policy and PPO have topics of their own.
_TOPICS = {
    "run": ("seed", "total_steps", "output", "checkpoint_interval", "keep_checkpoints"),
    "another run to start from": ("init_from", "init_parts", "schedule_steps"),
    "classes of your own": ("loss", "optimizer", "on_batch", "algorithm", "callbacks", "loggers"),
    "metrics and checks": ("log_interval", "eval_interval", "eval_episodes", "strict", "debug"),
    "several runs": ("num_seeds", "sweep", "num_samples"),
    "machine": ("generator", "num_devices", "compile_cache"),
}

_TITLES = {"env": "environment", "policy": "policy", "ppo": "PPO"}

_EPILOG = (
    "Options override values in files. They may be written with dashes, as in --ppo.learning-rate "
    "1e-3, and a switch such as --strict needs no value. A class of your own is named by its "
    "import path, as in --policy my_module.MyPolicy --policy.hidden 32; modules in the working "
    "directory are found. --policy.help [CLASS] lists its arguments; so do --env.help, "
    "--optimizer.help and so on."
)


def print_help(prog: str) -> None:
    """Print the options of a command that takes a config."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--KEY VALUE ...] [--dry-run]\n"
        f"       {prog} --resume RUN_DIR [--dry-run]",
        description="Train a policy as a config describes, and write a run directory.",
        epilog=_EPILOG,
        add_help=False,
    )
    add = parser.add_argument
    add("-h, --help", nargs="?", metavar="", help="Show this help, then exit.")
    add(
        "--config",
        metavar="FILE",
        help="Read values from a YAML file with any of the keys below, or from a config that comes "
        "with rlscan, by its name: `rlscan configs` lists them. May be repeated; later files "
        "override earlier ones.",
    )
    add(
        "--resume",
        metavar="RUN_DIR",
        help="Continue a run that was stopped or killed, from the last checkpoint in its run "
        "directory, or from a checkpoint file in it.",
    )
    add(
        "--allow",
        metavar="MODULE",
        help="With --resume: build classes of this module too, which the run directory names. May "
        "be repeated.",
    )
    add(
        "--dry-run",
        metavar="{true,false}",
        help="Print the size of the run and the memory it needs, then exit.",
    )
    add(
        "--print_config",
        metavar="FLAGS",
        help="Print the resulting config, then exit. The flags, separated by commas, are "
        "skip_default and skip_unset.",
    )
    for group, cls in GROUPS.items():
        topic = parser.add_argument_group(_TITLES[group])
        _add_keys(topic, cls, f"{group}.")
    for title, names in _TOPICS.items():
        topic = parser.add_argument_group(title)
        _add_keys(topic, Config, "", names)
    parser.print_help()


def _add_keys(topic: Any, cls: type, prefix: str, names: tuple[str, ...] = ()) -> None:
    texts, fields = _texts(cls), {f.name: f for f in dataclasses.fields(cls)}
    for name in names or fields:
        if name == "init_args":
            continue
        key, default = f"{prefix}{name}", fields[name].default
        if key in KEYS and default is not dataclasses.MISSING:
            suffix = f" (default: {as_text(default)})"
        else:
            suffix = ""
        text = f"{texts[name]}{suffix}".replace("%", "%%")
        topic.add_argument(f"--{key}", metavar=_metavar(key), help=text)


def _metavar(key: str) -> str:
    kind = KEYS.get(key)
    if kind is None:
        return "CLASS"
    options = [one for one in typing.get_args(kind) if one is not type(None)]
    if is_union(kind):
        kind = options[0]
    if typing.get_origin(kind) is typing.Literal:
        return f"{{{','.join(map(str, typing.get_args(kind)))}}}"
    words = {bool: "{true,false}", int: "N", float: "X", str: "TEXT", dict: "{KEY: VALUE}"}
    return words.get(typing.get_origin(kind) or kind, "[LIST]")


def _texts(cls: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    import docstring_parser

    parsed = docstring_parser.parse_from_object(cls)
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}


def print_class_help(key: str, path: str) -> None:
    """Print the arguments that a config may give to a class, see `--policy.help CLASS`.

    **Raises:** `ValueError` if there is no such class.
    """
    call: Call = {**COMPONENTS, **LISTS}[key]
    if not path and key != "policy":
        raise ValueError(f"--{key}.help needs a value: a class by its import path")
    paths = [path] if path else list(dict.fromkeys(path for path, _ in KINDS.values()))
    for one in paths:
        target = find(one, key=key, allow=ANYTHING)
        known = arguments_of(target, call.num_positional, call.given)
        about = (inspect.getdoc(target) or "").partition("\n\n")[0]
        print(f"{one}: {' '.join(about.split())}" if about else one)
        for line in describe_arguments(one, known):
            print(line.replace("  ", f"  --{key}.", 1))
        if not known:
            print("  it takes no arguments")
