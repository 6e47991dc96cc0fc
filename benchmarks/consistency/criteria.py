"""The criteria, set before the study was run, and whether they are met."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.consistency.cells import Cell, Found, cells_of
from benchmarks.consistency.tasks import TARGET_KLS, Task
from rlscan import bootstrap_interval as interval

LATE_KL, LATE_CLIP_FRACTION = 3e-3, 0.05  # the least for naive at p ≥ 0.25
FROM_RATE = 0.25
APPLIED, AT_RATE = 0.2, 0.5  # naive under target_kl applies a smaller fraction of its steps


class Verdict(NamedTuple):
    """One criterion in one environment."""

    criterion: str
    where: str
    numbers: str
    outcome: str  # "passed", "failed" or "missing"


def verdicts(tasks: list[Task], found: Found) -> Iterator[Verdict]:
    """All criteria, one after the other."""
    for task in tasks:
        yield exact(task, found)
    for task in tasks:
        for target_kl in TARGET_KLS:
            yield mismatch(task, target_kl, found)
    for task in tasks:
        yield trust_region(task, found)


def exact(task: Task, found: Found) -> Verdict:
    """Consistent: the error within the tolerance and nothing clipped, in every update."""
    cells = [cell for cell in cells_of(task) if cell.arm == "consistent"]
    figures = [found[cell]["figures"] for cell in cells if cell in found]
    outcome, numbers = "missing", "no cell"
    if figures:
        error = max(f["max_audit_error"].max() for f in figures)
        clipped = max(f["max_audit_clip_fraction"].max() for f in figures)
        num_updates = sum(f["num_updates"] * f["score"].size for f in figures)
        numbers = (
            f"error at most {error:.1e} (tolerance {task.tolerance:g}), clip fraction at most "
            f"{clipped:g}, in {num_updates:,} updates"
        )
        # Negated, so that NaN fails.
        outcome = _outcome(not (error <= task.tolerance and clipped == 0), len(figures), cells)
    return Verdict("a", task.env, numbers, outcome)


def mismatch(task: Task, target_kl: float, found: Found) -> Verdict:
    """Naive at p ≥ 0.25: late k3 ≥ 3e-3 and late clip fraction ≥ 0.05, mean over seeds."""
    cells = [
        cell
        for cell in cells_of(task)
        if cell.arm == "naive" and cell.rate >= FROM_RATE and cell.target_kl == target_kl
    ]
    numbers, is_failed, num_found = [], False, 0
    for cell in cells:
        if cell in found:
            figures = found[cell]["figures"]
            kl = figures["late_audit_kl"].mean()
            clipped = figures["late_audit_clip_fraction"].mean()
            is_failed |= not (kl >= LATE_KL and clipped >= LATE_CLIP_FRACTION)
            num_found += 1
            numbers.append(f"p = {cell.rate:g}: k3 {kl:.2g}, clip fraction {clipped:.2g}")
    where = f"{task.env}, {stop(target_kl)}"
    return Verdict(
        "b", where, "; ".join(numbers) or "no cell", _outcome(is_failed, num_found, cells)
    )


def trust_region(task: Task, found: Found) -> Verdict:
    """Under target_kl at p = 0.5: naive applies < 20 % of its gradient steps, and scores less."""
    by_arm = {
        cell.arm: found.get(cell)
        for cell in cells_of(task)
        if cell.rate == AT_RATE and not math.isinf(cell.target_kl)
    }
    naive, consistent = by_arm["naive"], by_arm["consistent"]
    if naive is None or consistent is None:
        return Verdict("c", task.env, "no cell", "missing")
    applied = naive["figures"]["applied"].mean()
    late = naive["figures"]["late_applied"].mean()
    ours, theirs = (interval(one["figures"]["score"]) for one in (consistent, naive))
    numbers = (
        f"naive applies {applied:.1%} of its steps ({late:.1%} late); IQM interval "
        f"[{number(theirs[0])}, {number(theirs[1])}], "
        f"consistent's [{number(ours[0])}, {number(ours[1])}]"
    )
    is_passed = applied < APPLIED and theirs[1] < ours[0]
    return Verdict("c", task.env, numbers, "passed" if is_passed else "failed")


def stop(target_kl: float) -> str:
    return "no target_kl" if math.isinf(target_kl) else f"target_kl {target_kl:g}"


def number(x: float) -> str:
    """Format with three digits or more: 12.3, 1234, 0.123."""
    if not np.isfinite(x):
        return "–"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _outcome(is_failed: bool, num_found: int, cells: list[Cell]) -> str:
    if is_failed:
        return "failed"
    if num_found < len(cells):
        return f"missing: {len(cells) - num_found} of {len(cells)} cells"
    return "passed"
