"""`compare`: scores of algorithms over environments and seeds, from their run directories."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._core.screen import printable
from ._config import prefixed
from ._curves import binned
from ._evaluations import EVALUATIONS_FILE
from ._final import final_returns
from ._groups import (
    LABEL,
    Group,
    describe_settings,
    environment_of,
    is_of_env,
    read_groups,
    read_labels,
)
from ._read import read_metrics
from ._statistics import (
    Estimate,
    Scores,
    estimate,
    performance_profile,
    pooled_iqm,
    probability_of_improvement,
)

Score = Literal["training", "evaluation"]

NUM_FRACTIONS = 40  # of the training, at which the efficiency is computed
NUM_THRESHOLDS = 81  # of a performance profile
_SMOOTHING = 0.05  # of the training, over which each return of the efficiency is averaged


@dataclasses.dataclass
class Cell:
    """An algorithm in an environment."""

    environment: str
    algorithm: str
    group: Group
    scores: np.ndarray  # of the runs that have one
    iqm: Estimate
    num_steps: float  # of training
    efficiency: Estimate  # the IQM of returns at `FRACTIONS` of the training, [F] each

    @property
    def num_lost(self) -> int:
        """Runs without a score: they have diverged, or ended no episode at the end."""
        return len(self.group.runs) - len(self.scores)


@dataclasses.dataclass
class Overall:
    """An algorithm over all environments, with normalised scores."""

    algorithm: str
    iqm: Estimate
    profile: Estimate  # the fraction of runs above each threshold, [K] each
    efficiency: Estimate  # [F] each


@dataclasses.dataclass
class Improvement:
    """How probably a run of X scores higher than one of Y in the same environment."""

    x: str
    y: str
    environments: list[str]  # those that have both
    probability: Estimate


@dataclasses.dataclass
class Comparison:
    """What `compare` found."""

    score: Score
    cells: list[Cell]
    overall: list[Overall]  # of the algorithms with runs in all environments
    improvements: list[Improvement]
    thresholds: np.ndarray  # of the performance profiles
    ranges: dict[str, tuple[float, float]]
    """The scores of each environment that are 0 and 1 in `overall`. One environment alone is not
    normalised: it has none."""

    @property
    def environments(self) -> list[str]:
        return list(dict.fromkeys(cell.environment for cell in self.cells))

    @property
    def algorithms(self) -> list[str]:
        return list(dict.fromkeys(cell.algorithm for cell in self.cells))


FRACTIONS = np.arange(1, NUM_FRACTIONS + 1) / NUM_FRACTIONS


def compare(
    directories: Sequence[str | Path],
    *,
    labels: Sequence[str] = (),
    score: Score | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """Compare algorithms over environments and seeds.

    Runs with the same settings of the environment are of one environment. Runs with the same name,
    or the same other settings, are of one algorithm. A run that has diverged has no score; it is
    left out of all statistics and counted in `Cell.num_lost`.

    **Arguments:**

    - `directories`: run directories.
    - `labels`: names of the algorithms in them, texts `"DIR=NAME"`.
    - `score`: `"training"`: the mean return over the episodes in the last tenth of training.
        `"evaluation"`: the mean return of the last evaluation. By default that, if all runs have
        one.
    - `ranges`: for an environment, the scores that count as 0 and 1 if several environments are
        taken together. By default the lowest and the highest of the runs compared.

    **Raises:** `ValueError` for what is not a run directory, or one without returns.
    """
    groups = read_groups(directories, names=read_labels(labels, directories))
    chosen: Score = score or ("evaluation" if _are_evaluated(directories) else "training")
    places = zip(_environments(groups), _algorithms(groups), groups, strict=True)
    cells = [_cell(_in_line(env), _in_line(name), group, chosen) for env, name, group in places]
    if not any(len(cell.scores) for cell in cells):
        raise ValueError("no run has ended an episode at the end of its training; train for longer")
    found = Comparison(chosen, cells, [], [], np.empty(0), {})
    found.ranges = _ranges(found, ranges or {})
    found.thresholds = _thresholds(found)
    table = {(cell.environment, cell.algorithm): cell for cell in cells if len(cell.scores)}
    _require_names(cells)
    for name in found.algorithms:
        here = [table[one, name] for one in found.environments if (one, name) in table]
        if len(here) == len(found.environments):
            found.overall.append(_overall(found, name, here))
    for x, y in itertools.combinations(found.algorithms, 2):
        both = [one for one in found.environments if {(one, x), (one, y)} <= table.keys()]
        if both:
            scores = [[table[one, name].scores for one in both] for name in (x, y)]
            probability = estimate(probability_of_improvement, *scores)
            found.improvements.append(Improvement(x, y, both, probability))
    return found


def _in_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _require_names(cells: Sequence[Cell]) -> None:
    names = [(cell.environment, cell.algorithm) for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"two groups of runs in {twice[0]} are called {twice[1]!r}; name them by --label"
        )


def _environments(groups: Sequence[Group]) -> list[str]:
    """The name of each group's environment, with those parameters that are not always the same."""
    names = [environment_of(group.settings) or "runs" for group in groups]
    known = ("env.name", "env.class_path")
    others = [
        {k: x for k, x in g.settings.items() if is_of_env(k) and k not in known} for g in groups
    ]
    described = dict[int, str]()
    for name in dict.fromkeys(names):
        here = [i for i, its in enumerate(names) if its == name]
        described |= zip(here, describe_settings([others[i] for i in here]), strict=True)
    return [", ".join(filter(None, (name, described[i]))) for i, name in enumerate(names)]


def _algorithms(groups: Sequence[Group]) -> list[str]:
    """The name of each group's algorithm: that of a user, or the settings that differ."""
    settings = [{k: x for k, x in g.settings.items() if not is_of_env(k)} for g in groups]
    named = describe_settings(settings)
    others = "others" if any(LABEL in one for one in settings) else "all runs"
    for i in [i for i, name in enumerate(named) if not name]:
        same = [g for g, its in zip(groups, settings, strict=True) if its == settings[i]]
        directories = {directory.resolve().name for g in same for directory, _ in g.sources}
        named[i] = directories.pop() if len(directories) == 1 else others
    return named


def _cell(environment: str, algorithm: str, group: Group, score: Score) -> Cell:
    scores = _final_scores(group, score)
    known = scores[np.isfinite(scores)]
    nothing = Estimate(np.nan, np.nan, np.nan)
    iqm = estimate(pooled_iqm, [known]) if len(known) else nothing
    num_steps, values = _efficiency(group)
    efficiency = _estimate_at_each([values])
    return Cell(environment, algorithm, group, known, iqm, num_steps, efficiency)


def _are_evaluated(directories: Sequence[str | Path]) -> bool:
    return all((Path(directory) / EVALUATIONS_FILE).is_file() for directory in directories)


def _final_scores(group: Group, score: Score) -> np.ndarray:
    if score == "training":
        with prefixed(f"{group.sources[0][0]}: "):
            return np.concatenate([final_returns(run) for run in group.runs])
    scores = []
    for directory, run in group.sources:
        table = read_metrics(directory, EVALUATIONS_FILE)
        if "episode_return" not in table:
            raise ValueError(f"{directory / EVALUATIONS_FILE} has no episode_return")
        returns = table["episode_return"][table["run"] == run]
        scores.append(returns[-1] if len(returns) else np.nan)
    return np.array(scores)


def _efficiency(group: Group) -> tuple[float, np.ndarray]:
    """The steps of the longest run, and the return of each run at `FRACTIONS` of them, `[R, F]`."""
    last = max(run["step"].max() for run in group.runs)
    step, values = binned(group, "episode_return", smoothing=round(_SMOOTHING * last))
    return float(last), np.stack([np.interp(FRACTIONS * last, step, run) for run in values])


def _estimate_at_each(tasks: Scores) -> Estimate:
    """The IQM at each of F points, of those runs that have a score there; tasks are `[R, F]`."""
    present = np.concatenate([np.isfinite(task) for task in tasks])
    found = Estimate(*np.full((3, present.shape[1]), np.nan))
    # Points are reduced together if the same runs have a score there.
    for pattern in np.unique(present, axis=1).T:
        here = (present == pattern[:, None]).all(axis=0)
        of_tasks = np.split(pattern, np.cumsum([len(task) for task in tasks])[:-1])
        known = [task[p][:, here] for task, p in zip(tasks, of_tasks, strict=True)]
        if all(map(len, known)):
            for into, values in zip(found, estimate(pooled_iqm, known), strict=True):
                into[here] = values
    return found


def _ranges(
    found: Comparison, given: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    for name in given:
        if name not in found.environments:
            raise ValueError(
                f"no run is of the environment {name}; there are {', '.join(found.environments)}"
            )
    if len(found.environments) == 1 and not given:
        return {}
    ranges = {}
    for name in found.environments:
        scores = np.concatenate([c.scores for c in found.cells if c.environment == name])
        if not len(scores):
            raise ValueError(f"no run of {name} has a score; leave its directories out")
        ranges[name] = given.get(name, (float(scores.min()), float(scores.max())))
    return ranges


def _normalised(found: Comparison, environment: str, scores: np.ndarray) -> np.ndarray:
    low, high = found.ranges.get(environment, (0.0, 1.0))
    return (scores - low) / ((high - low) or 1.0)


def _thresholds(found: Comparison) -> np.ndarray:
    every = [_normalised(found, cell.environment, cell.scores) for cell in found.cells]
    scores = np.concatenate(every)
    room = 0.02 * (np.ptp(scores) or 1.0)
    return np.linspace(scores.min() - room, scores.max() + room, NUM_THRESHOLDS)


def _overall(found: Comparison, algorithm: str, cells: Sequence[Cell]) -> Overall:
    scores = [_normalised(found, cell.environment, cell.scores) for cell in cells]
    curves = [_normalised(found, cell.environment, _efficiency(cell.group)[1]) for cell in cells]
    profile: Any = partial(performance_profile, thresholds=found.thresholds)
    return Overall(
        algorithm,
        estimate(pooled_iqm, scores),
        estimate(profile, scores),
        _estimate_at_each(curves),
    )
