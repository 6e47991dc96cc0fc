"""Sweeps: several values of settings; numbers are trained side by side in one program."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ppo._config import PPOConfig, check_config

# The numbers of PPO. Settings that shape the program need a program for each value.
SWEEPABLE = tuple(
    f"ppo.{field.name}"
    for field in dataclasses.fields(PPOConfig)
    if not field.metadata.get("static", False)
)
EXAMPLES = "ppo.learning_rate=1e-4,3e-4 or ppo.learning_rate=log:1e-4..1e-2"


class Member(NamedTuple):
    """One of the runs that are trained side by side."""

    seed: int
    swept: dict[str, float]  # by keys of the config, such as ppo.learning_rate


class _Sweep(NamedTuple):
    key: str
    values: list[float]  # or the two ends of a range
    is_range: bool
    is_log: bool


def read_sweep(sweep: Sequence[str], *, num_samples: int, seed: int) -> list[dict[str, float]]:
    """The settings that a sweep trains, each as values by key; one without values for no sweep.

    Lists form a grid. Ranges are sampled jointly, `num_samples` times, by a generator that starts
    from `seed`. Each sample is combined with every point of the grid.

    **Raises:** `ValueError` for an entry that is not KEY=VALUES, for values that are no numbers,
    and for a key that is repeated.
    """
    sweeps = [_read(text) for text in sweep]
    keys = [one.key for one in sweeps]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"sweep has {key} twice; give all its values in one")
    ranges = [one for one in sweeps if one.is_range]
    lists = [[(one.key, value) for value in one.values] for one in sweeps if not one.is_range]
    rng = np.random.default_rng(seed)
    samples = [
        [(one.key, _draw(one, rng)) for one in ranges] for _ in range(num_samples if ranges else 1)
    ]
    settings = [dict([*grid, *drawn]) for grid in itertools.product(*lists) for drawn in samples]
    return [{key: setting[key] for key in keys} for setting in settings]


def count_settings(sweep: Sequence[str], *, num_samples: int) -> int:
    """Count the settings that `read_sweep` returns, without making them."""
    sweeps = [_read(text) for text in sweep]
    num_drawn = num_samples if any(one.is_range for one in sweeps) else 1
    return math.prod(len(one.values) for one in sweeps if not one.is_range) * num_drawn


def check_sweep(ppo: PPOConfig, settings: Sequence[Mapping[str, float]]) -> None:
    """Raise `ValueError` for an invalid value in a setting."""
    # Valid numbers form an interval, so the ends say it of all: there may be many settings.
    for end in (min, max):
        for key in (key for key in settings[0] if key.startswith("ppo.")):
            changed = {key.removeprefix("ppo."): end(setting[key] for setting in settings)}
            try:
                check_config(dataclasses.replace(ppo, **changed))
            except ValueError as error:
                raise ValueError(f"sweep: ppo.{error}") from None


def split_entry(text: str) -> tuple[str, list[str]]:
    """The key and the values of an entry of a sweep, as text; a range is one value.

    **Raises:** `ValueError` for an entry that is not KEY=VALUES.
    """
    key, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"sweep must be KEY=VALUES, such as {EXAMPLES}, got {text!r}")
    # A comma inside of brackets belongs to a list.
    return key.strip().replace("-", "_"), [v.strip() for v in _COMMA.split(values)]


_COMMA = re.compile(r",(?![^\[{(]*[\]})])")


def _read(text: str) -> _Sweep:
    key, _ = split_entry(text)
    values = text.partition("=")[2]
    is_log = values.startswith("log:")
    values = values.removeprefix("log:")
    is_range = ".." in values
    try:
        numbers = [_number(one) for one in values.split(".." if is_range else ",")]
    except ValueError:
        raise ValueError(
            f"sweep of {key} must be numbers or a range, such as {EXAMPLES}, got {text!r}"
        ) from None
    if is_log and not is_range:
        raise ValueError(f"sweep of {key}: log: needs a range, such as log:1e-4..1e-2")
    if is_range:
        _check_range(key, numbers, is_log)
    return _Sweep(key, numbers, is_range, is_log)


def _check_range(key: str, ends: list[float], is_log: bool) -> None:
    if len(ends) != 2 or not (-math.inf < ends[0] < ends[1] < math.inf):
        raise ValueError(f"sweep of {key}: a range must be LOW..HIGH with LOW < HIGH, got {ends}")
    if is_log and ends[0] <= 0:
        raise ValueError(f"sweep of {key}: a log: range must start above 0, got {ends[0]}")


def _number(text: str) -> float:
    number = float(text.strip().replace(".inf", "inf"))  # YAML writes it with a point
    if math.isnan(number):
        raise ValueError(text)
    return number


def _draw(sweep: _Sweep, rng: Any) -> float:
    """A sample, rounded to four digits so that it can be typed into another run."""
    low, high = sweep.values
    drawn = rng.uniform(math.log(low), math.log(high)) if sweep.is_log else rng.uniform(low, high)
    rounded = float(f"{math.exp(drawn) if sweep.is_log else drawn:.4g}")
    return min(max(rounded, low), high)
