"""`parse_command`: the config and the options that a command line gives."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .._core.require import did_you_mean
from .._core.tree import flatten_keys
from ..envs._make import is_name
from ..ppo._config import SCHEDULED
from ._arguments import as_text
from ._component import ANYTHING
from ._config import GROUPS, KEYS, LISTS, Config, check, follows_horizon, to_dict
from ._config_file import Setting, read_settings
from ._config_keys import PARAMS, is_key, is_of_component, nearest, wanted
from ._directory import CONFIG_FILE
from ._drafts import Drafts
from ._help import print_class_help, print_help
from ._named_configs import find_config
from ._resume import ALLOWED, LONGER, locate
from ._schedules import read_schedule
from ._values import read_value

# Options that are no keys of a config, with the type of their values.
_OTHERS = {
    "config": str,
    "resume": str,
    "dry_run": bool,
    "allow": str,
    "help": None,
    "print_config": None,
}

_REPEATABLE = ("config", "sweep", "allow", *LISTS)

_FLAGS = ("skip_default", "skip_unset")  # of --print_config


class Command(NamedTuple):
    """The contents of a command line."""

    config: Config
    resume: str | None  # a run directory, or a checkpoint in one
    dry_run: bool
    changed: frozenset[str]  # dotted keys given on the command line itself, not in a file


def parse(argv: Sequence[str], *, prog: str = "train", allow: Sequence[str] = ANYTHING) -> Config:
    """The config that a command line gives. Arguments and errors are those of `parse_command`."""
    return parse_command(argv, prog=prog, allow=allow).config


def parse_command(
    argv: Sequence[str],
    *,
    prog: str = "train",
    allow: Sequence[str] = ANYTHING,
    overrides: Mapping[str, Any] | None = None,
) -> Command:
    """Read a command line and the files it names, and check the resulting config.

    Values on the command line override values in files, wherever they stand. Otherwise, later
    values override earlier ones. With `--resume`, the config is that of the run directory, and
    few of its values can be overridden. `output` is always set.

    **Arguments:**

    - `argv`: `--config FILE`, `--KEY VALUE`, `--resume RUN_DIR` and `--dry-run`, in any number and
        order. Dashes and underscores in a key are the same, and a switch such as `--strict` needs
        no value.
    - `prog`: the name of the program in `--help`.
    - `allow`: the modules whose classes the files may name. By default any, since the caller has
        named the files; with `--resume` those of `--allow`.
    - `overrides`: values by key, as text, that override those on the command line.

    **Raises:** `ValueError`, in one line, for a file that cannot be read, and for an invalid key
    or value. `SystemExit` after `--help` and `--print_config`.
    """
    for key in overrides or ():
        if not is_key(key) and key not in _OTHERS:
            raise ValueError(f"sweep: unknown key {key}{nearest(key)}")
    given = {**_read_options(argv), **(overrides or {})}
    if "help" in given:
        print_help(prog)
        raise SystemExit(0)
    for name in given:
        if name.endswith(".help"):
            print_class_help(name.removesuffix(".help"), given[name])
            raise SystemExit(0)
    files, flags = given.pop("config", []), given.pop("print_config", None)
    more = tuple(given.pop("allow", ()))
    values: dict[str, Any] = {}
    if "resume" in given:
        allow = more
        directory = _directory_to_resume(given["resume"], [*given, *["config"] * bool(files)])
        files, values["output"] = [str(directory / CONFIG_FILE)], str(directory)
    drafts = Drafts(allow)
    for i, file in enumerate(files):
        _override(values, read_settings(find_config(file)), drafts, i)
    saved = _config_of(drafts.finish(dict(values))) if "resume" in given else Config()
    options = [Setting(k, v, _as_written(v)) for k, v in given.items()]
    _override(values, options, drafts, len(files))
    is_extended = "resume" in given and values.get("total_steps") != saved.total_steps
    if is_extended and follows_horizon(saved):
        # What follows a schedule keeps its horizon when a run is extended, unless it is asked for.
        values["schedule_steps"] = values.get("schedule_steps") or saved.total_steps
    resume, dry_run = values.pop("resume", None), values.pop("dry_run", False)

    config = dataclasses.replace(_config_of(drafts.finish(values)), allow=tuple(allow))
    check(config)
    if flags is not None:
        _print_config(config, flags)
        raise SystemExit(0)
    if config.output is None:
        name = Path(files[-1]).stem if files else config.env.title
        output = f"runs/{name}-{config.seed}-{datetime.now():%Y%m%d-%H%M%S}"
        config = dataclasses.replace(config, output=output)
    return Command(config, resume, dry_run, frozenset(filter(is_key, given)))


def _config_of(values: dict[str, Any]) -> Config:
    """The config with these values by dotted key; others have their defaults."""
    fields: dict[str, Any] = {k: v for k, v in values.items() if "." not in k}
    for group, cls in GROUPS.items():
        prefix = f"{group}."
        own = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        fields[group] = cls(**own)
    return Config(**fields)


def _read_options(argv: Sequence[str]) -> dict[str, Any]:
    """Values by option, as text; a list of them for an option that may be repeated."""
    options: list[tuple[str, str | None]] = []
    for argument in argv:
        if argument == "-h":
            options.append(("help", None))
        elif argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            options.append((name.replace("-", "_"), value if equals else None))
        elif options and options[-1][1] is None:
            options[-1] = (options[-1][0], argument)
        elif options and options[-1][0] == "sweep" and "=" in argument:
            options.append(("sweep", argument))  # --sweep KEY=VALUES KEY=VALUES
        else:
            raise ValueError(f"{argument!r} follows no option; write --KEY VALUE, such as --seed 1")
    given: dict[str, Any] = {}
    for name, value in options:
        if not (is_key(name) or name in _OTHERS or _is_class_help(name)):
            raise ValueError(f"unknown option --{name}{nearest(name)}")
        value = _without_value(name) if value is None else value
        group, _, argument = name.partition(".")
        if group in LISTS and argument:
            _give_to_last(given, group, argument, value)
            continue
        if name in _REPEATABLE:
            value = [*given.get(name, []), value]
        given.pop(name, None)  # keys are in the order of their last values: see `_override`
        given[name] = value
    return given


def _is_class_help(name: str) -> bool:
    group, _, rest = name.partition(".")
    return rest == "help" and is_of_component(group)


def _give_to_last(given: dict[str, Any], group: str, argument: str, value: str) -> None:
    """Give `--callbacks.KEY VALUE` to the class of the last `--callbacks`."""
    if not given.get(group):
        raise ValueError(f"--{group}.{argument} follows no --{group}; name the class before it")
    last = given[group][-1]
    last = {"class_path": last, "init_args": {}} if isinstance(last, str) else last
    last["init_args"][argument.removeprefix("init_args.")] = value
    given[group][-1] = last


def _as_written(value: str | list[Any]) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value))


def _without_value(name: str) -> str:
    """The value of an option that stands alone: `--strict` is `--strict=true`."""
    kind = _OTHERS[name] if name in _OTHERS else KEYS.get(name, str)
    if kind is None or _is_class_help(name):
        return ""
    if kind is bool:
        return "true"
    examples = {
        "config": "a YAML file",
        "resume": "a run directory",
        "allow": "a module, such as my_module",
    }
    words = wanted(name) if name in KEYS else "a class by its import path"
    raise ValueError(f"--{name} needs a value: {examples.get(name) or words}")


def _override(
    values: dict[str, Any], settings: Iterable[Setting], drafts: Drafts, source: int
) -> None:
    """Put settings into `values`, each converted to the type of its key, or into `drafts`."""
    for setting in map(_with_name, settings):
        key, value, got, where = setting
        if is_of_component(key):
            drafts.take(setting, source)
            continue
        drafts.note(setting, source)
        if key.startswith(PARAMS):
            name = key.removeprefix(PARAMS)
            value = read_value(key, value, Any, got=got, where=where)
            values["env.params"] = {**values.get("env.params", {}), name: value}
        elif key.removeprefix("ppo.") in SCHEDULED and _is_mapping(value):
            value = read_value(key, value, Any, got=got, where=where)
            values[key] = read_schedule(value, key=key, where=where, allow=drafts.allow)
        elif key == "sweep" and _is_mapping(value):
            values[key] = _entries(read_value(key, value, Any, got=got, where=where))
        elif key in KEYS:
            kind, words = KEYS[key], wanted(key)
            values[key] = read_value(key, value, kind, got=got, where=where, words=words)
        else:
            values[key] = read_value(key, value, _OTHERS[key], got=got, where=where)


def _with_name(setting: Setting) -> Setting:
    """`env: CartPole-v1` as the name of an environment; a class has a module, which is no suite."""
    value = setting.value
    named = setting.key == "env" and isinstance(value, str) and is_name(value)
    return setting._replace(key="env.name") if named else setting


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{"))


def _entries(axes: Mapping[str, Any]) -> tuple[str, ...]:
    """The entries of a sweep that is a mapping from keys to values: `{ppo.gamma: [0.9, 0.99]}`."""
    return tuple(
        f"{key}={','.join(map(as_text, values)) if isinstance(values, list) else as_text(values)}"
        for key, values in flatten_keys(axes).items()
    )


def _print_config(config: Config, flags: str) -> None:
    """Print a config as YAML; with `skip_default` without what has its default value."""
    tree, asked = to_dict(config), [flag for flag in flags.split(",") if flag]
    for flag in asked:
        if flag not in _FLAGS:
            near = did_you_mean(flag, _FLAGS)
            raise ValueError(
                f'Invalid option "{flag}" for --print_config; one of {", ".join(_FLAGS)}{near}'
            )
    if asked:
        tree = _difference(tree, to_dict(_config_of(Drafts(()).finish({}))))
    print(yaml.safe_dump(tree, sort_keys=False), end="")


def _difference(tree: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        before = default.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            value, before = _difference(value, before), {}
        if value != before:
            found[name] = value
    return found


def _directory_to_resume(path: str, options: Iterable[str]) -> Path:
    """The run directory; `ValueError` if there is none, or an option makes it another run."""
    directory, _ = locate(path)
    for option in options:
        if option not in (*ALLOWED, *LONGER, "resume", "dry_run"):
            allowed = ", ".join(f"--{key}" for key in (*ALLOWED, *LONGER))
            raise ValueError(
                f"--{option} cannot be given with --resume: a run goes on as it began; "
                f"what can be are {allowed}"
            )
    return directory
