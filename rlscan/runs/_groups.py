"""`Group`: runs that differ only in their seeds, and a name for each group."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from .._core.tree import flatten_keys
from ._load import load_settings
from ._metrics_files import METRICS_FILES
from ._read import Table, read_table, with_run_and_seed

MAX_SETTINGS = 3  # in a label, unless more are needed to tell the groups apart

# Settings in which runs of one group may differ, because they do not affect learning.
_IGNORED = {
    "seed",
    "key",
    "num_seeds",
    "num_devices",
    "compile_cache",
    "log_interval",
    "strict",
    "debug",
}
_IGNORED |= {"loggers", "eval_interval", "eval_episodes", "sweep", "num_samples"}
_IGNORED |= {"checkpoint_interval", "keep_checkpoints", "allow"}


LABEL = "label"  # stands for all settings but the environment's, in runs that a user named


@dataclasses.dataclass
class Group:
    """Runs that differ only in their seeds."""

    settings: dict[str, Any]  # by dotted keys
    runs: list[Table] = dataclasses.field(default_factory=list)
    sources: list[tuple[Path, int]] = dataclasses.field(default_factory=list)
    """The directory of each run, and its number there."""


def read_groups(
    directories: Sequence[str | Path],
    file: str = METRICS_FILES[0],
    *,
    names: Mapping[Path, str] | None = None,
) -> list[Group]:
    """Read the runs of several directories, and group those with equal settings.

    **Arguments:**

    - `directories`: run directories.
    - `file`: of metrics, as for `read_metrics`.
    - `names`: from `read_labels`. Runs with the same name, environment and swept settings are one
        group, whatever their other settings.

    **Raises:** as `read_metrics`; `ValueError` for a directory that is given twice or has no rows.
    """
    known: set[Path] = set()
    groups: list[Group] = []
    for directory in directories:
        if (path := Path(directory).resolve()) in known:
            raise ValueError(f"{directory} is given twice; its seeds would count double")
        known.add(path)
        config = load_settings(directory)
        settings = _settings(config) or {"directory": str(directory)}
        table = with_run_and_seed(read_table(directory, file), lambda: config)  # noqa: B023
        if not len(table["run"]):
            raise ValueError(
                f"{Path(directory) / file} has no rows yet; wait for the first, or leave it out"
            )
        shared = settings
        if names and (name := names.get(path)) is not None:
            shared = {k: x for k, x in settings.items() if is_of_env(k)} | {LABEL: name}
        for run in np.unique(table["run"]):
            rows = {name: column[table["run"] == run] for name, column in table.items()}
            # The first columns have the swept settings of each run. A metric may have the name of a
            # setting as well, such as `loss`.
            first = takewhile(lambda name: name not in ("update", "step"), rows)
            values = shared | {k: float(rows[k][0]) for k in first if k not in ("run", "seed")}
            group = next((g for g in groups if g.settings == values), None)
            if group is None:
                groups.append(group := Group(values))
            group.runs.append(rows)
            group.sources.append((Path(directory), int(run)))
    return groups


def read_labels(texts: Sequence[str], directories: Sequence[str | Path]) -> dict[Path, str]:
    """The names of run directories, from texts `DIR=NAME`.

    **Raises:** `ValueError` for a text without a name, or of another directory.
    """
    known = [Path(directory).resolve() for directory in directories]
    names: dict[Path, str] = {}
    for text in texts:
        # Either side may have an equals sign of its own.
        places = [i for i, letter in enumerate(text) if letter == "="]
        fits = [i for i in places if Path(text[:i]).resolve() in known and text[i + 1 :].strip()]
        if not fits:
            raise ValueError(
                f"--label must be DIR=NAME, where DIR is one of the run directories, got {text}"
            )
        path = Path(text[: fits[0]]).resolve()
        if path in names:
            raise ValueError(f"--label names {text[: fits[0]]} twice; keep one")
        names[path] = text[fits[0] + 1 :].strip()
    return names


def environment_of(settings: Mapping[str, Any]) -> str:
    """The name or the class of the environment; empty if the settings do not tell."""
    return str(settings.get("env.name") or settings.get("env.class_path") or "")


def is_of_env(key: str) -> bool:
    """Whether a setting belongs to the environment."""
    return key.split(".")[0] == "env"


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that affect learning, by the keys that sweeps use, such as policy.dropout."""
    flat = flatten_keys({key: value for key, value in config.items() if key not in _IGNORED})
    return {key.replace(".init_args.", "."): x for key, x in flat.items() if x != {}}


def labels(groups: Sequence[Group]) -> list[str]:
    """A label for each group: its name or the settings that differ, and its number of seeds."""
    described = describe_settings([group.settings for group in groups])

    def label(group: Group, words: str) -> str:
        count = len(group.runs)
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        if not words:  # it differs from no other, or only from runs with a name
            directories = {directory.resolve().name for directory, _ in group.sources}
            names = directories if len(groups) > 1 and len(directories) == 1 else set()
            words = "".join(names) or environment_of(group.settings) or "run"
        return f"{words} ({seeds})"

    return [label(*one) for one in zip(groups, described, strict=True)]


def describe_settings(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe settings by those that differ, or by enough of them to be unique."""
    keys = dict.fromkeys(key for settings in all_settings for key in settings)

    def num_distinct(*keys: str) -> int:
        # A name stands for the settings that it hides, which differ from no others.
        compared = [s for s in all_settings if LABEL not in s or s.keys() >= set(keys)]
        return len({str([settings.get(key) for key in keys]) for settings in compared})

    shown = [key for key in keys if num_distinct(key) > 1 and key != LABEL]
    if len(shown) > MAX_SETTINGS:
        differing, shown = shown, []
        for key in differing:
            if num_distinct(*shown, key) > num_distinct(*shown):
                shown.append(key)

    def describe(settings: Mapping[str, Any]) -> str:
        here = [k for k in shown if k in settings] if LABEL in settings else shown
        names = [settings[LABEL]] if LABEL in settings else []
        return ", ".join([*names, *(_name_and_value(key, settings.get(key)) for key in here)])

    return [describe(settings) for settings in all_settings]


def _name_and_value(key: str, value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if key == "env.name" else f"{key.split('.')[-1]} {short}"
