"""`split_sweep`: the axes of a sweep that one program trains, and those that need programs."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .._core.require import did_you_mean
from ..envs._make import float_params
from ._arguments import arguments_of
from ._component import find, is_own
from ._sweep import SWEEPABLE, split_entry
from ._values import wanted_of

PARAMS = "env.params."

_SEPARATE = ("ppo.", "policy.", "env.", "total_steps")
"""The beginnings of the keys that may have a program for each value."""


class Axis(NamedTuple):
    """A setting with a program of its own for each value."""

    key: str
    values: list[str]


def split_sweep(sweep: Sequence[str], policy: Any, env: Any) -> tuple[list[str], list[Axis]]:
    """Split the entries of a sweep: those trained in one program, and those that shape it.

    **Arguments:**

    - `sweep`: the entries, as `KEY=VALUES`.
    - `policy`, `env`: the configs of the policy and of the environment, which have numbers.

    **Raises:** `ValueError` for a key that cannot be swept.
    """
    together, separate = [], []
    for text in sweep:
        key, values = split_entry(text)
        if key in SWEEPABLE or is_rate(policy, key) or is_param(env, key):
            together.append(text)
        elif key.startswith(_SEPARATE):
            if len(values) == 1 and ".." in values[0]:
                raise ValueError(
                    f"sweep of {key}: it shapes the program, so it takes a list of values rather "
                    f"than the range {values[0]}"
                )
            separate.append(Axis(key, values))
        else:
            raise ValueError(
                f"sweep takes keys of ppo, policy, env and total_steps, got {key!r}"
                f"{did_you_mean(key, SWEEPABLE)}"
            )
    keys = [axis.key for axis in separate]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"sweep has {key} twice; give all its values in one")
    return together, separate


def is_rate(policy: Any, key: str) -> bool:
    """Whether a key is a number of one of rlscan's policies that a program can have as an array."""
    group, _, name = key.partition(".")
    if group != "policy" or not is_own(policy.class_path):
        return False
    known = arguments_of(find(policy.class_path, key="policy"), 1, ("key",))
    return name in known and wanted_of(known[name].kind) == wanted_of(float)


def is_param(env: Any, key: str) -> bool:
    """Whether a key is a number of a named environment that a program can have as an array."""
    name = key.removeprefix(PARAMS)
    return key.startswith(PARAMS) and env.name is not None and name in float_params(env.name)


def variants(sweep: Sequence[str], policy: Any, env: Any) -> Iterator[dict[str, str]]:
    """The values of the separate axes that each program has, by key: one mapping for each program.

    Without such axes there is one program, with an empty mapping.
    """
    axes = split_sweep(sweep, policy, env)[1]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def directory_of(variant: dict[str, str]) -> str:
    """The name of the run directory of a variant, such as `hidden_sizes=32-32,num_envs=8`."""
    parts = (
        f"{key.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9._+-]+', '-', value).strip('-')}"
        for key, value in variant.items()
    )
    return ",".join(parts)
