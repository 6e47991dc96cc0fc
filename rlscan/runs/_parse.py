"""`parse`: the config that a command line and its YAML files ask for."""

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
from pathlib import Path
from typing import Any

import yaml

from .._core.require import did_you_mean
from ..ppo._config import PPOConfig
from ._config import GROUPS, KEYS, Config, check, from_dict, to_dict
from ._loggers import LOGGERS
from ._sweep import EXAMPLES


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
        if action.dest in GROUPS:  # --ppo FILE: a second way to say what --config says
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
    if key in GROUPS:
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
        if not (key in GROUPS or _is_key(key)):
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
        if key in GROUPS or _is_key(f"{key}.") and isinstance(value, yaml.MappingNode):
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
