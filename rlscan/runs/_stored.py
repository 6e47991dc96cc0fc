"""Which runs keep their compiled programs on the disk, and what those depend on."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from .._core.program_store import stored_programs
from .._core.types import Environment
from ..envs._make import split_name
from ..envs._suites._table import SUITES
from ..random._pickle import allow_pickled_keys
from ._component import is_own
from ._config import Config, to_dict

# Settings of what happens around the updates.
_OUTSIDE = ("seed", "log_interval", "loggers", "eval_episodes", "callbacks")
_OUTSIDE += ("checkpoint_interval", "keep_checkpoints", "compile_cache")


def store_programs(config: Config, env: Environment) -> contextlib.AbstractContextManager[None]:
    """Keep the programs that a run makes within this context, so that the next start is quick.

    A run of other classes than rlscan's and optax's, or of a suite of environments that another
    package brings, keeps none: what these read when they are made, such as a file, is not known.
    """
    tree = {name: value for name, value in to_dict(config).items() if name not in _OUTSIDE}
    are_known = all(is_own(path) or path.startswith("optax.") for path in _paths(tree))
    are_known &= split_name(str(config.env.name))[0] in {"gymnax", *SUITES}
    if not (config.compile_cache and are_known):
        return contextlib.nullcontext()
    allow_pickled_keys()
    return stored_programs(json.dumps(tree, sort_keys=True), env)


def _paths(tree: Any) -> Iterator[str]:
    """The classes and functions that a config names."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from [value] if name == "class_path" and value else _paths(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _paths(value)
