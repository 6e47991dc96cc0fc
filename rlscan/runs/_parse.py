"""`parse_command`: the config and the options that a command line gives."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..ppo._config import PPOConfig
from ._config import GROUPS, KEYS, Config, check
from ._config_file import Setting, compose, read_settings
from ._config_keys import PARAMS, is_key, nearest, wanted, wanted_of
from ._directory import CONFIG_FILE
from ._named_configs import find_config
from ._resume import ALLOWED, LONGER, locate

# Options that are no keys of a config, with the type of their values.
_OTHERS = {"config": str, "resume": str, "dry_run": bool, "help": None, "print_config": None}

_REPEATABLE = ("config", "sweep")


class Command(NamedTuple):
    """The contents of a command line."""

    config: Config
    resume: str | None  # a run directory, or a checkpoint in one
    dry_run: bool
    changed: frozenset[str]  # dotted keys given on the command line itself, not in a file


def parse(argv: Sequence[str], *, prog: str = "train") -> Config:
    """The config that a command line gives. Arguments and errors are those of `parse_command`."""
    return parse_command(argv, prog=prog).config


def parse_command(argv: Sequence[str], *, prog: str = "train") -> Command:
    """Read a command line and the files it names, and check the resulting config.

    Values on the command line override values in files, wherever they stand. Otherwise, later
    values override earlier ones. With `--resume`, the config is that of the run directory, and
    few of its values can be overridden. `output` is always set.

    **Arguments:**

    - `argv`: `--config FILE`, `--KEY VALUE`, `--resume RUN_DIR` and `--dry-run`, in any number and
        order. Dashes and underscores in a key are the same, and a switch such as `--strict` needs
        no value.
    - `prog`: the name of the program in `--help`.

    **Raises:** `ValueError`, in one line, for a file that cannot be read, and for an invalid key
    or value. `SystemExit` after `--help` and `--print_config`.
    """
    parser, given = _parser(prog), _read_options(argv)
    if "help" in given:
        parser.parse_args(["--help"])
    files, flags = given.pop("config", []), given.pop("print_config", None)
    values: dict[str, Any] = {}
    if "resume" in given:
        directory = _directory_to_resume(given["resume"], [*given, *["config"] * bool(files)])
        files, values["output"] = [str(directory / CONFIG_FILE)], str(directory)
    for file in files:
        _override(values, read_settings(find_config(file)), parser)
    _override(values, (Setting(k, v, _as_written(v)) for k, v in given.items()), parser)
    resume, dry_run = values.pop("resume", None), values.pop("dry_run", False)

    namespace = parser.instantiate(parser.parse_object(values))
    config = Config(**{field.name: namespace[field.name] for field in dataclasses.fields(Config)})
    check(config)
    if flags is not None:
        _print_config(values, flags, parser)
    if config.output is None:
        name = Path(files[-1]).stem if files else config.env.name
        output = f"runs/{name}-{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
        config = dataclasses.replace(config, output=output)
    return Command(config, resume, dry_run, frozenset(filter(is_key, given)))


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
        usage=f"{prog} [--config FILE] [--KEY VALUE ...] [--dry-run]\n"
        f"       {prog} --resume RUN_DIR [--dry-run]",
        description="Train a policy with PPO as a config describes, and write a run directory.",
        epilog="Options override values in files. They may be written with dashes, as in "
        "--ppo.learning-rate 1e-3, and a switch such as --strict needs no value.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE",
        help="Read values from a YAML file with any of the keys below, or from a config that comes "
        "with rlscan, by its name: `rlscan configs` lists them. May be repeated; later files "
        "override earlier ones.",
    )
    # They have no defaults, so that --print_config leaves them out: they are not part of a config.
    parser.add_argument(
        "--resume",
        type=str,
        default=argparse.SUPPRESS,
        metavar="RUN_DIR",
        help="Continue a run that was stopped or killed, from the last checkpoint in its run "
        "directory, or from a checkpoint file in it.",
    )
    parser.add_argument(
        "--dry-run",
        type=bool,
        default=argparse.SUPPRESS,
        help="Print the size of the run and the memory it needs, then exit.",
    )
    parser.add_class_arguments(Config)
    for action in parser._actions:
        if action.dest in GROUPS:  # --ppo FILE: a second way to do what --config does
            action.help = argparse.SUPPRESS
        if "--print_config" in action.option_strings:
            action.help = (
                "Print the resulting config, then exit. The flags, separated by commas, are "
                "skip_default and skip_unset."
            )
    return parser


def _read_options(argv: Sequence[str]) -> dict[str, Any]:
    """Values by option, as text; a list of them for an option that may be repeated.

    This only pairs options with values. jsonargparse could do it too, but it applies each file at
    its place among the options, and its errors do not tell which option is wrong.
    """
    options: list[tuple[str, str | None]] = []
    for argument in argv:
        if argument == "-h":
            options.append(("help", None))
        elif argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            options.append((name.replace("-", "_"), value if equals else None))
        elif options and options[-1][1] is None:
            options[-1] = (options[-1][0], argument)
        else:
            raise ValueError(f"{argument!r} follows no option; write --KEY VALUE, such as --seed 1")
    given: dict[str, Any] = {}
    for name, value in options:
        if not (is_key(name) or name in _OTHERS):
            raise ValueError(f"unknown option --{name}{nearest(name)}")
        value = _without_value(name) if value is None else value
        if name in _REPEATABLE:
            value = [*given.get(name, []), value]
        given.pop(name, None)  # keys are in the order of their last values: see `_override`
        given[name] = value
    return given


def _as_written(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _without_value(name: str) -> str:
    """The value of an option that stands alone: `--strict` is `--strict=true`."""
    kind = _OTHERS[name] if name in _OTHERS else KEYS.get(name, str)
    if kind is None:
        return ""
    if kind is bool:
        return "true"
    examples = {"config": "a YAML file", "resume": "a run directory"}
    raise ValueError(f"--{name} needs a value: {examples.get(name) or wanted(name)}")


def _override(values: dict[str, Any], settings: Iterable[Setting], parser: Any) -> None:
    """Put settings into `values`, each converted to the type of its key."""
    from jsonargparse import ArgumentError

    for key, value, got, where in settings:
        if key.startswith(PARAMS):
            name = key.removeprefix(PARAMS)
            key, value = "env.params", {**values.get("env.params", {}), name: value}
        try:  # one key at a time, so that it is known which of them is wrong
            if _has_ambiguous_number(key, got) or not _is_yaml(value):
                raise ArgumentError(None, key)
            values[key] = parser.parse_object({key: value}, defaults=False)[key]
        except ArgumentError:
            what = wanted(key) if key in KEYS else wanted_of(_OTHERS[key])
            got = " ".join(got.split()) or "nothing"
            raise ValueError(f"{where}{key} must be {what}, got {got}") from None


# Numbers that YAML reads as others: 12:30 is 750 there (sexagesimal), and 017 is 15 (octal).
_AMBIGUOUS = re.compile(r"(?<![\w.+-])[-+]?(0[0-7_]+|\d[\d_]*(:[0-5]?\d)+(\.\d*)?)(?![\w.])")


def _has_ambiguous_number(key: str, got: str) -> bool:
    kind = KEYS.get(key, _OTHERS.get(key))
    is_text = str in (kind, *typing.get_args(kind)) and key != "env.params"
    return not is_text and _AMBIGUOUS.search(got) is not None


def _is_yaml(value: Any) -> bool:
    """Whether a text can be read at all; see `compose` for aliases that never end."""
    try:
        return not isinstance(value, str) or "*" not in value or compose(value) is not None
    except yaml.YAMLError:
        return False


def _print_config(values: Mapping[str, Any], flags: str, parser: Any) -> None:
    from jsonargparse import ArgumentError

    try:
        parser.parse_args([f"--print_config={flags}"], namespace=parser.parse_object(values))
    except ArgumentError as error:
        raise ValueError(str(error)) from None


def _directory_to_resume(path: str, options: Iterable[str]) -> Path:
    """The run directory; `ValueError` if there is none, or an option makes it another run."""
    directory, _ = locate(path)
    for option in options:
        if option not in (*ALLOWED, LONGER, "resume", "dry_run"):
            allowed = ", ".join(f"--{key}" for key in (*ALLOWED, LONGER))
            raise ValueError(
                f"--{option} cannot be given with --resume: a run goes on as it began; "
                f"what can be are {allowed}"
            )
    return directory
