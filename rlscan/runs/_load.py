"""`load_trained`: a run directory, read again by what looks at it."""

from pathlib import Path
from typing import Any, NamedTuple

from .._core.types import Environment, Policy
from ._build import build_env
from ._config import Config
from ._directory import CONFIG_FILE
from ._parse import parse
from ._policy_file import load_policy


class Trained(NamedTuple):
    """What a run was made of, and what came out."""

    config: Config
    env: Environment
    policy: Policy  # as it was trained: with its noise


def load_config(directory: str | Path) -> Config:
    """The config of a run.

    **Raises:** `ValueError` if that is no run directory, or its config cannot be read.
    """
    file = Path(directory) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{directory} is no run directory: it has no {CONFIG_FILE}")
    return parse(["--config", str(file)])


def load_trained(directory: str | Path, *, run: int | None = None) -> Trained:
    """The config, environment and policy of a run.

    **Arguments:**

    - `directory`: of the run.
    - `run`: which one, where several were trained together.

    **Raises:** `ValueError` if that is no run directory, if nothing was saved in it yet, or if its
    files cannot be read.
    """
    config = load_config(directory)
    which: dict[str, Any] = {} if run is None else {"run": run}
    try:
        policy = load_policy(directory, inference=False, **which)
    except FileNotFoundError:
        raise ValueError(f"{directory} holds no policy yet; let the run end, or stop it") from None
    return Trained(config, build_env(config.env), policy)
