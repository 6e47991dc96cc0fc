"""Building what a config attaches to a run: loggers and callbacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._callbacks import Callback
from ._component import build, find, require_methods, takes
from ._config import Config, to_dict
from ._loggers import Logger


def build_loggers(config: Config) -> list[Logger]:
    """Build the loggers; those that take `directory` or `config` are given them."""
    given = {"directory": str(config.output), "config": to_dict(config)}
    return _build_each(
        config, "loggers", given, ("log", "close"), "a logger, see rlscan.runs.Logger"
    )


def build_callbacks(config: Config) -> list[Callback]:
    """Build the callbacks; those that take `directory` are given one in the run directory."""
    given = {"directory": str(Path(str(config.output), "snapshots"))}
    what = "a callback, see rlscan.runs.Callback"
    return _build_each(config, "callbacks", given, ("on_update",), what)


def _build_each(
    config: Config, name: str, given: dict[str, Any], methods: Sequence[str], what: str
) -> list[Any]:
    """Build the entries of a list of components."""
    found = []
    for i, component in enumerate(getattr(config, name)):
        key = f"{name}[{i}]"
        target = find(component.class_path, key=key, allow=config.allow)
        own = {n: x for n, x in given.items() if takes(target, n) and n not in component.init_args}
        built = build(component, key=key, allow=config.allow, **own)
        require_methods(built, methods, key, component, what)
        found.append(built)
    return found
