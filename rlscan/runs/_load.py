"""`load_trained`: read what a run trained, for evaluating, plotting and rendering."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .._core.types import Environment, Policy
from ._build import build_env
from ._config import Config, is_config, to_dict
from ._config_file import compose
from ._directory import CONFIG_FILE
from ._parse import parse
from ._policy_file import load_policy


class Trained(NamedTuple):
    """The config, the environment and the trained policy of a run."""

    config: Config
    env: Environment
    policy: Policy  # in training mode, with its noise


def load_config(directory: str | Path, *, allow: Sequence[str] = ()) -> Config:
    """Read the config of a run. Nothing that it names is imported, except for `allow`.

    **Raises:** `ValueError` if `directory` is not a run directory, or its config cannot be read.
    """
    file = Path(directory) / CONFIG_FILE
    if not os.path.isfile(file):  # a Path raises for a name that is too long
        raise ValueError(f"{directory} is not a run directory: it has no {CONFIG_FILE}")
    return parse(["--config", str(file)], allow=allow)


def load_settings(directory: str | Path) -> dict[str, Any]:
    """Read the settings that a run directory keeps, those of a loop of one's own included.

    **Returns:** the contents of its config file as plain dicts, lists and numbers; empty if there
    is none.

    **Raises:** `ValueError` if the file cannot be read.
    """
    file = Path(directory) / CONFIG_FILE
    if not os.path.isfile(file):
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        tree = compose(text) and yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        tree = None  # the parser of configs says what is wrong
    if isinstance(tree, dict) and not is_config(tree):
        return tree
    return to_dict(load_config(directory))


def load_trained(
    directory: str | Path, *, run: int | None = None, allow: Sequence[str] = ()
) -> Trained:
    """Read the config, environment and policy of a run.

    **Arguments:**

    - `directory`: the run directory.
    - `run`: the number of the run, if several were trained together.
    - `allow`: the modules whose classes may be built beside rlscan's, see `rlscan.load_policy`.

    **Raises:** `ValueError` if `directory` is not a run directory, if it holds no policy yet, or if
    its files cannot be read.
    """
    config = load_config(directory, allow=allow)
    which: dict[str, Any] = {} if run is None else {"run": run}
    try:
        policy = load_policy(directory, inference=False, allow=allow, **which)
    except FileNotFoundError:
        raise ValueError(f"{directory} holds no policy yet; let the run end, or stop it") from None
    return Trained(config, build_env(config, run=run or 0), policy)
