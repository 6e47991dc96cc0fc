"""The cells of the study: which there are, running one, and what is kept of it."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _results
from benchmarks._timing import record
from benchmarks.consistency.arms import ARMS, arm
from benchmarks.consistency.tasks import TARGET_KLS, Task
from benchmarks.consistency.training import Program
from benchmarks.learning.training import last_tenth

CURVE_POINTS = 50


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm at a dropout rate and a KL stop, in an environment."""

    task: Task
    arm: str
    rate: float
    target_kl: float  # inf for none

    @property
    def name(self) -> str:
        name = self.arm.replace(" ", "-")
        rate = "" if self.arm == "off" else f"-p{self.rate:g}"
        stop = "none" if math.isinf(self.target_kl) else f"{self.target_kl:g}"
        return f"{self.task.name}/{name}{rate}-kl-{stop}"


Found = dict[Cell, dict[str, Any]]


def cells_of(task: Task) -> Iterator[Cell]:
    """All cells of an environment. `off` has a rate of 0, and so one cell for each KL stop."""
    for target_kl in TARGET_KLS:
        for name in ARMS:
            for rate in (0.0,) if name == "off" else task.rates:
                yield Cell(task, name, rate, target_kl)


def read(cells: Iterable[Cell], results: Path) -> Found:
    """The cells that have been run, with arrays for the lists of numbers."""
    kept = _results.read(results)
    return {cell: _with_arrays(kept[cell.name]) for cell in cells if cell.name in kept}


def run(cell: Cell, program: Program, seeds: list[int], results: Path) -> float:
    """Train the seeds of a cell and keep it.

    **Returns:** the seconds that training took.
    """
    start = time.perf_counter()
    numbers = arm(cell.arm, cell.rate, cell.target_kl)
    metrics, evaluation = jax.device_get(program(jnp.asarray(seeds), numbers))
    seconds = time.perf_counter() - start
    figures = {
        name: _rounded(value) for name, value in summary(cell.task, metrics, evaluation).items()
    }
    content = record("consistency", settings(cell, seeds), figures)
    # The seconds of all seeds; those of an environment's first cell include compiling.
    _results.write(results, cell.name, {**content, "seconds": round(seconds, 1)})
    return seconds


def settings(cell: Cell, seeds: list[int]) -> dict[str, Any]:
    """The settings that a cell is run with, as they are kept."""
    stop = None if math.isinf(cell.target_kl) else cell.target_kl
    which = {"arm": cell.arm, "rate": cell.rate, "target_kl": stop, "seeds": seeds}
    return {**cell.task.settings(), **which}


def agrees(found: Any, wanted: Any) -> bool:
    """Whether kept settings are the wanted ones. A setting that they lack is a newer one."""
    if isinstance(found, dict):
        return all(name in wanted and agrees(found[name], wanted[name]) for name in found)
    return found == wanted


def summary(task: Task, metrics: dict[str, np.ndarray], evaluation: np.ndarray) -> dict[str, Any]:
    """Reduce the metrics `[seeds, updates]` to one number for each seed.

    "Late" is the last quarter of the updates.
    """
    num_updates = metrics["audit_kl"].shape[1]
    late = slice(num_updates - max(1, num_updates // 4), None)
    # The fraction of the gradient steps that was taken.
    applied = metrics["num_gradient_steps"] / (task.config.num_epochs * task.config.num_minibatches)
    return {
        "num_updates": num_updates,
        "score": last_tenth(metrics["episode_return"], metrics["num_episodes"]),
        "score_without_dropout": evaluation,
        "late_audit_kl": metrics["audit_kl"][:, late].mean(axis=1),
        "late_audit_clip_fraction": metrics["audit_clip_fraction"][:, late].mean(axis=1),
        "max_audit_clip_fraction": metrics["audit_clip_fraction"].max(axis=1),
        "max_audit_error": metrics["audit_error"].max(axis=1),
        "max_audit_log_ratio": metrics["audit_log_ratio"].max(axis=1),
        "applied": applied.mean(axis=1),
        "late_applied": applied[:, late].mean(axis=1),
        **curve(task, metrics["episode_return"], metrics["num_episodes"]),
    }


def curve(task: Task, episode_return: np.ndarray, num_episodes: np.ndarray) -> dict[str, Any]:
    """Mean return of the episodes that ended in each of at most 50 stretches of the updates."""
    num_updates = episode_return.shape[1]
    stretches = np.array_split(np.arange(num_updates), min(CURVE_POINTS, num_updates))
    total = np.where(num_episodes > 0, episode_return * num_episodes, 0)
    with np.errstate(invalid="ignore"):  # no episode ended: NaN
        means = [total[:, s].sum(axis=1) / num_episodes[:, s].sum(axis=1) for s in stretches]
    per_update = task.config.num_envs * task.config.num_steps
    return {
        "curve_steps": [int(s[-1] + 1) * per_update for s in stretches],
        "curve": np.stack(means, axis=1),  # [seeds, stretches]
    }


def _with_arrays(content: dict[str, Any]) -> dict[str, Any]:
    figures = {
        name: np.array(value, dtype=float) if isinstance(value, list) else value
        for name, value in content["figures"].items()
    }
    return {**content, "figures": figures}


def _rounded(value: Any) -> Any:
    """Round to six digits, which is more than is known; null for NaN and infinity."""
    if isinstance(value, np.ndarray | list):
        return [_rounded(one) for one in value]
    if isinstance(value, int | np.integer):
        return int(value)
    return float(f"{value:.6g}") if np.isfinite(value) else None
