"""The model card of a run: `README.md` in its directory, which a hub of models shows first."""

import importlib.util
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from .._core.files import write_whole
from ._config import Config
from ._curves import Curve, curve
from ._evaluations import EVALUATIONS_FILE
from ._final import final_returns
from ._groups import Group, labels as labels_of_groups
from ._info import last_session
from ._metrics_files import METRICS_FILES
from ._read import Table, read_table, with_run_and_seed
from ._report import interval, markdown_table, number
from ._scores import bootstrap_interval, iqm
from ._statistics import Estimate

CARD_FILE, PICTURE_FILE = "README.md", "learning_curve.png"

_MARK = "<!-- Written by rlscan. Remove this line to keep the file as it is. -->"
_METADATA = "---\nlibrary_name: rlscan\npipeline_tag: reinforcement-learning\n---"  # for a hub
_RETURN = "episode_return"
_MOST_ROWS = 10  # of a curve in a table; one with more points may be drawn
_LEAST_SECONDS = 60.0  # of a run whose curve is drawn, since that takes a second


class Card(NamedTuple):
    """What a run knows about itself and its files do not tell."""

    title: str
    num_updates: tuple[int, int]  # made, and of the whole run
    steps_per_update: int  # of each run
    config: Mapping[str, Any]
    labels: Sequence[Mapping[str, Any]]  # of each run
    policy_config: Config | None  # from which `load_policy` builds the policy
    has_policy: bool  # whether one is saved
    is_finished: bool
    seconds: float  # of training


def write_card(directory: Path, card: Card) -> None:
    """Write the model card of a run, unless the user has put a file of the same name there.

    The learning curve of a long run is a picture in a file of its own, if matplotlib is installed;
    else it is a table.

    **Raises:** `OSError` if a file cannot be written; `ValueError` if the metrics cannot be read.
    """
    if not _is_ours(directory / CARD_FILE):
        return
    table = with_run_and_seed(read_table(directory, METRICS_FILES[0]), lambda: card.config)
    has_returns = _RETURN in table and len(table[_RETURN]) > 0
    groups = _groups(directory, table, card.labels) if has_returns else []
    may_draw = card.is_finished and card.seconds >= _LEAST_SECONDS
    parts = [_METADATA, _MARK, f"# {' '.join(card.title.split())}", _progress(card)]
    parts += [*_returns(directory, groups), *_learning_curve(directory, groups, may_draw)]
    parts += [*_loading(card), *_settings(card.config), *_versions(directory)]
    write_whole(directory / CARD_FILE, "\n\n".join(parts).encode() + b"\n")


def _is_ours(file: Path) -> bool:
    if not os.path.lexists(file):
        return True
    try:
        return not file.is_symlink() and _MARK in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _progress(card: Card) -> str:
    done, total = card.num_updates
    runs = len(card.labels)
    each = f"{runs} runs of " if runs > 1 else ""
    steps = done * card.steps_per_update * runs
    return f"Training: {each}{done:,} of {total:,} updates, {steps:,} environment steps in all."


def _groups(directory: Path, table: Table, labels: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The runs of each swept setting."""
    groups: list[Group] = []
    for i, label in enumerate(labels):
        settings = {k: x for k, x in label.items() if k not in ("run", "seed")}
        group = next((one for one in groups if one.settings == settings), None)
        if group is None:
            groups.append(group := Group(settings))
        own = table["run"] == i
        group.runs.append({name: column[own] for name, column in table.items()})
        group.sources.append((directory, i))
    return groups


def _returns(directory: Path, groups: Sequence[Group]) -> list[str]:
    """How well the runs ended, by training and by the last evaluation if there is one."""
    if not groups:
        return []
    scores = {"last tenth of training": [_final_returns(group) for group in groups]}
    if (directory / EVALUATIONS_FILE).is_file():
        found = read_table(directory, EVALUATIONS_FILE)
        if _RETURN in found and len(found[_RETURN]):
            returns = with_run_and_seed(found, dict)
            last = [[_last(returns, run) for _, run in group.sources] for group in groups]
            scores["last evaluation"] = [np.array(one) for one in last]
    rows = [
        [name, episodes, interval(_iqm(of_group)), number(float(of_group.min()))]
        for episodes, of_groups in scores.items()
        for name, of_group in zip(labels_of_groups(groups), of_groups, strict=True)
    ]
    note = "Mean return per episode. IQM: interquartile mean over seeds, with a 95 % bootstrap "
    header = ["runs", "episodes", "IQM", "worst seed"]
    return ["## Return", f"{note}interval.", markdown_table(header, rows)]


def _final_returns(group: Group) -> np.ndarray:
    return np.concatenate([final_returns(run) for run in group.runs])


def _last(table: Table, run: int) -> float:
    returns = table[_RETURN][table["run"] == run]
    return float(returns[-1]) if len(returns) else np.nan


def _iqm(scores: np.ndarray) -> Estimate:
    return Estimate(float(iqm(scores)), *bootstrap_interval(scores))


def _learning_curve(directory: Path, groups: Sequence[Group], may_draw: bool) -> list[str]:
    curves = [curve(group, _RETURN) for group in groups]
    curves = [one for one in curves if np.isfinite(one.middle).any()]
    if not curves or len(curves) < len(groups):
        return []
    is_long = max(len(one.step) for one in curves) > _MOST_ROWS
    names = labels_of_groups(groups)
    if is_long and may_draw and importlib.util.find_spec("matplotlib") is not None:
        write_whole(directory / PICTURE_FILE, _picture(curves, names))
        shown = f"![Return per episode over environment steps]({PICTURE_FILE})"
    else:
        header = ["environment steps", *(f"return: {name}" for name in names)]
        shown = markdown_table(header, _rows(curves))
    return ["## Learning curve", shown]


def _rows(curves: Sequence[Curve]) -> list[list[str]]:
    """At most `_MOST_ROWS` points of curves, which share their steps as they do their program."""
    step = curves[0].step
    kept = np.linspace(0, len(step) - 1, min(len(step), _MOST_ROWS)).round().astype(int)
    return [
        [f"{step[k]:,.0f}", *(interval(Estimate(c.middle[k], c.low[k], c.high[k])) for c in curves)]
        for k in kept
    ]


def _picture(curves: Sequence[Curve], names: Sequence[str]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.3), layout="constrained")
    ax = figure.subplots()
    for one, name in zip(curves, names, strict=True):
        (line,) = ax.plot(one.step, one.middle, label=name)
        ax.fill_between(one.step, one.low, one.high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="environment steps", ylabel="return per episode")
    ax.legend(frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def _loading(card: Card) -> list[str]:
    if not card.has_policy:
        return []
    several, config = len(card.labels) > 1, card.policy_config
    if config is None:
        arguments = ['"."', "like=policy"]
        note = "`policy` is one of the same class and shapes, such as a new one."
    else:
        allowed = [f"allow={json.dumps(config.allow)}"] * bool(config.allow)
        arguments = ['"."', *["run=0"] * several, *allowed]
        note = f"Runs are numbered from 0 to {len(card.labels) - 1}." * several
    call = f"policy = rlscan.load_policy({', '.join(arguments)})"
    code = f"```python\nimport rlscan\n\n{call}\n```"
    return ["## How to load the policy", "In this directory:", code, *filter(None, [note])]


def _settings(settings: Mapping[str, Any]) -> list[str]:
    if not settings:
        return []
    text = yaml.safe_dump(dict(settings), sort_keys=False).strip()
    fence = "`" * (3 + text.count("```"))  # longer than any in the text
    return ["## Settings", f"{fence}yaml\n{text}\n{fence}"]


def _versions(directory: Path) -> list[str]:
    session = last_session(directory)
    versions = session.get("versions")
    rows = [[str(name), str(x)] for name, x in versions.items()] if versions else []
    rows += [["Python", str(session.get("python"))]] if rows else []
    rows += [["devices", ", ".join(map(str, session.get("devices", [])))]] if rows else []
    return ["## Versions", markdown_table(["package", "version"], rows)] if rows else []
