"""The report: table.md beside the results, and a figure for each environment."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.consistency import plots
from benchmarks.consistency.cells import Cell, Found, cells_of, read
from benchmarks.consistency.criteria import number, stop, verdicts
from benchmarks.consistency.tasks import TARGET_KLS, Task
from rlscan import bootstrap_interval as interval, iqm

HEAD = """# Dropout in PPO, consistent or not: all figures

Written by `python -m benchmarks.consistency --report` from the cells beside it; what they are is
in [the README](../README.md).

## What was to come out

Set before the study was run. (a) Consistent: audit error within the tolerance and clip fraction 0
in every update of every run. (b) Naive at p ≥ 0.25: late k3 ≥ 3e-3 and late clip fraction ≥ 0.05,
both means over seeds. (c) Under target_kl at p = 0.5: naive applies less than 20 % of the gradient
steps of the whole run, and the interval of its IQM lies below consistent's.
"""

COLUMNS = """
Return: of the episodes that ended in the last tenth of the updates, as the arm acts. Without
dropout: of one episode in each of 16 environments after training, dropout switched off. Both are
the IQM over n seeds with its 95 % bootstrap interval. The others are of the first minibatch of each
update, before any gradient step: k3 and clip fraction, late (the last quarter of the updates), mean
over seeds; max abs(Δ log π), of all updates and seeds. Steps: of the gradient steps of the run, the
fraction that was applied, and late.
"""

TABLE_HEAD = (
    "| p | arm | n | return | without dropout | k3 | clip fraction | max abs(Δ log π) | steps |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def write(tasks: list[Task], results: Path) -> None:
    """Write `table.md` and the plots, and print the criteria."""
    results.mkdir(parents=True, exist_ok=True)
    found = read((cell for task in tasks for cell in cells_of(task)), results)
    judged = [
        f"| {v.criterion} | {v.where} | {v.numbers} | **{v.outcome}** |"
        for v in verdicts(tasks, found)
    ]
    print("\n".join(judged))
    lines = [HEAD, "| | where | what came out | |", "|---|---|---|---|", *judged, COLUMNS]
    for task in tasks:
        lines += [f"## {task.env}, {task.total_steps:,} steps", ""]
        if any(cell in found for cell in cells_of(task)):
            plots.draw(task, found, results)
            lines += [f"![{task.env}]({task.name}.png)", ""]
        lines += [*tables(task, found), *circumstances(task, found), ""]
    plots.draw_ratio(tasks, found, results)
    (results / "table.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"written to {results / 'table.md'}")


def tables(task: Task, found: Found) -> Iterator[str]:
    """The lines of an environment's tables, one without a KL stop and one with it."""
    for target_kl in TARGET_KLS:
        of_stop = [cell for cell in cells_of(task) if cell.target_kl == target_kl]
        yield from (f"{stop(target_kl).capitalize()}:", "", TABLE_HEAD)
        # By rate, so that the arms stand beside each other.
        yield from (row(cell, found) for cell in sorted(of_stop, key=lambda cell: cell.rate))
        yield ""


def row(cell: Cell, found: Found) -> str:
    if cell not in found:
        return f"| {cell.rate:g} | {cell.arm} | 0 | missing | | | | | |"
    f = found[cell]["figures"]
    columns = (
        f"{cell.rate:g}",
        cell.arm,
        f"{f['score'].size}",
        with_interval(f["score"]),
        with_interval(f["score_without_dropout"]),
        small(f["late_audit_kl"].mean()),
        small(f["late_audit_clip_fraction"].mean()),
        small(f["max_audit_log_ratio"].max()),
        f"{f['applied'].mean():.0%}, {f['late_applied'].mean():.0%}",
    )
    return f"| {' | '.join(columns)} |"


def with_interval(scores: np.ndarray) -> str:
    if not np.isfinite(scores).all():
        return "–"
    low, high = interval(scores)
    return f"{number(float(iqm(scores)))} [{number(low)}, {number(high)}]"


def small(x: float) -> str:
    return "–" if not math.isfinite(x) else "0" if x == 0 else f"{x:.2g}"


def circumstances(task: Task, found: Found) -> Iterator[str]:
    """A line for each combination of versions, commit and processor that made the cells."""
    made: dict[str, int] = {}
    for cell in cells_of(task):
        if cell in found:
            content = found[cell]
            versions = ", ".join(f"{name} {v}" for name, v in content["versions"].items())
            changed = " with changes" if content["changed"] else ""
            made_by = f"{versions}; commit {content['commit']}{changed}; {content['cpu']}"
            made[made_by] = made.get(made_by, 0) + 1
    for made_by, count in made.items():
        yield f"{count} cells by {made_by}."
