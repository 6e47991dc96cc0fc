"""Figures of the study of consistent dropout: `python -m benchmarks.consistency`."""

import functools
import math
from pathlib import Path

from benchmarks.consistency import report
from benchmarks.consistency.cells import Cell, Found, cells_of, read
from benchmarks.consistency.criteria import stop, verdicts
from benchmarks.consistency.tasks import TARGET_KLS, TASKS
from benchmarks.pages import markdown

RESULTS = Path(__file__).parent.parent / "consistency" / "results"
STOP = min(TARGET_KLS)  # the other one is infinite: no stop
ARMS = ("off", "consistent", "naive", "dropout-off rollout")
SUMMARY = (  # the task, the KL stop, and p
    ("cartpole", math.inf, 0.5),
    ("cartpole", STOP, 0.5),
    ("acrobot", math.inf, 0.75),
    ("memorychain", STOP, 0.5),
    ("pendulum", math.inf, 0.1),
    ("breakout", math.inf, 0.5),
    ("breakout", STOP, 0.5),
)


@functools.cache
def _found() -> Found:
    return read((cell for task in TASKS.values() for cell in cells_of(task)), RESULTS)


def summary() -> str:
    """The return of each arm, in the cells that tell the most."""

    def row(name: str, target_kl: float, rate: float) -> list[str]:
        task = TASKS[name]
        cells = [Cell(task, arm, 0.0 if arm == "off" else rate, target_kl) for arm in ARMS]
        where = f"{task.env}, {task.total_steps:,} steps, {stop(target_kl)}"
        return [where, f"{rate:g}", *(_return(cell) for cell in cells)]

    head = ("return, IQM", "p", "off", "consistent", "fresh masks", "dropout in the update alone")
    return markdown.table(head, [row(*where) for where in SUMMARY])


def returned(task: str, arm: str, rate: float, has_stop: bool = False) -> str:
    """The return of a cell: its IQM with the interval."""
    return _return(_cell(task, arm, rate, has_stop))


def applied(task: str, arm: str, rate: float, is_late: bool = False) -> str:
    """The percentage of the gradient steps that the KL stop let through, in all or late."""
    figures = _found()[_cell(task, arm, rate, has_stop=True)]["figures"]
    return f"{100 * figures['late_applied' if is_late else 'applied'].mean():.2g}"


def criteria() -> str:
    """What was to come out, and what did."""
    rows = [
        (v.criterion, v.where, v.numbers, f"**{v.outcome}**")
        for v in verdicts([*TASKS.values()], _found())
    ]
    lines = ["|  | where | what came out |  |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def task(name: str) -> str:
    """All cells of an environment, with and without the KL stop."""
    return "\n".join(report.tables(TASKS[name], _found()))


def num_cells() -> str:
    return str(len(_found()))


def made_by() -> str:
    lines = (line for task in TASKS.values() for line in report.circumstances(task, _found()))
    return "\n".join(f"- {line}" for line in lines)


def _cell(task: str, arm: str, rate: float, has_stop: bool) -> Cell:
    return Cell(TASKS[task], arm, rate, STOP if has_stop else math.inf)


def _return(cell: Cell) -> str:
    return report.with_interval(_found()[cell]["figures"]["score"]).replace("-", "−")
