"""Learning for each sample: the returns that libraries reach with equal settings and steps."""

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import rlscan
from benchmarks.peers.contest import Entry
from benchmarks.peers.report import WIDTH
from benchmarks.peers.workloads import Workload


class Score(NamedTuple):
    """The returns of a library's seeds, as files keep them."""

    name: str
    iqm: float
    interval: tuple[float, float]
    worst: float


def scores(entries: dict[str, Entry]) -> list[Score]:
    """A score for each library that ran: IQM over seeds with its 95 % bootstrap interval."""
    found = []
    for entry in entries.values():
        if entry.runs:
            returns = entry.runs[0]["returns"]
            interval = rlscan.runs.bootstrap_interval(returns)
            found.append(Score(entry.name, float(rlscan.runs.iqm(returns)), interval, min(returns)))
    return found


def show(workload: Workload, entries: dict[str, Entry]) -> None:
    title = (
        f"{workload.name}: {workload.env}, N = {workload.num_envs}, T = {workload.num_steps}, "
        f"{workload.seed_steps:,} steps of each of {workload.num_seeds} seeds, return"
    )
    table = Table("library", "versions, or why not", "IQM", "95 %", "worst seed", title=title)
    by_name = {score.name: score for score in scores(entries)}
    for entry in entries.values():
        table.add_row(entry.name, _versions(entry), *_cells(by_name.get(entry.name)))
    console = Console(width=WIDTH, highlight=False)
    console.print(table)
    for entry in entries.values():
        if entry.runs:
            about = [entry.about["network"], *entry.about["notes"]]
            console.print(f"{entry.name}: {'; '.join(about)}")


def _versions(entry: Entry) -> str:
    versions: dict[str, Any] = entry.about.get("versions", {})
    return ", ".join([f"{name} {v}" for name, v in versions.items()] or [entry.reason or ""])


def _cells(score: Score | None) -> tuple[str, ...]:
    if score is None:
        return "", "", ""
    low, high = score.interval
    return f"{score.iqm:.1f}", f"{low:.1f} … {high:.1f}", f"{score.worst:.1f}"
