"""The report: tables, and rlscan beside the fastest peer."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks._figures import spread
from benchmarks.peers import cold
from benchmarks.peers.contest import Entry
from benchmarks.peers.steady import OURS, WITH_DROPOUT
from benchmarks.peers.workloads import Workload

WIDTH = 140


@dataclass(frozen=True)
class Question:
    """The question that a contest answers."""

    title: str
    unit: str
    """The unit of a table's column; `show` converts the seconds of a run into it."""
    show: Callable[[float], str]
    quantity: str
    """The quantity whose ratio, rlscan's over the fastest peer's, is compared with the bars."""
    bars: dict[str, float]
    """For each contestant, the least ratio of a rate or the greatest ratio of a time."""
    is_rate: bool


def steady_question(workload: Workload) -> Question:
    seeds = f", {workload.num_seeds} seeds" if workload.num_seeds > 1 else ""
    dropout = {} if workload.dropout_bar is None else {WITH_DROPOUT: workload.dropout_bar}
    return Question(
        f"{workload.name}: {workload.env}, N = {workload.num_envs}, T = {workload.num_steps}, "
        f"{workload.num_epochs} epochs, {workload.num_minibatches} minibatches, "
        f"{workload.steps:,} steps{seeds}",
        unit="M steps/s",
        show=lambda seconds: f"{workload.steps / seconds / 1e6:.3f}",
        quantity="steps/s",
        bars={OURS: workload.bar, **dropout},
        is_rate=True,
    )


def cold_question(steps: int) -> Question:
    return Question(
        f"{cold.NAME}: from the shell to the end of {steps:,} steps of CartPole",
        unit="seconds",
        show=lambda seconds: f"{seconds:.1f}",
        quantity="seconds",
        bars={OURS: cold.COLD_BAR, OURS + cold.WARM: cold.WARM_BAR},
        is_rate=False,
    )


class Spread(NamedTuple):
    """The median of ratios over interleaved pairs, and their quartiles, as files keep them."""

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lower:.2f} … {self.upper:.2f})"


def ratio(a: Entry, b: Entry) -> Spread | None:
    """The seconds of `a` over those of `b`, in the rounds in which both ran; `None` if none."""
    ratios = [x / y for x, y in zip(a.seconds, b.seconds, strict=False)]
    if not ratios:
        return None
    low, median, high = spread(ratios)
    return Spread(median, low, high)


class Verdict(NamedTuple):
    """One bar, and the measured ratio."""

    ours: str
    peer: str
    ratio: Spread
    bar: float
    is_met: bool
    returns: tuple[float | None, float | None]


def verdicts(question: Question, entries: dict[str, Entry]) -> list[Verdict]:
    """rlscan over the fastest peer as it ships, for each bar whose contestants both ran."""
    peer = fastest(entries)
    found = []
    for name, bar in question.bars.items():
        ours = entries[name]
        if peer is None or not ours.runs:
            continue
        measured = ratio(peer, ours) if question.is_rate else ratio(ours, peer)
        if measured is not None:
            is_met = measured.median >= bar if question.is_rate else measured.median <= bar
            returns = (_mean(ours.returns), _mean(peer.returns))
            found.append(Verdict(name, peer.name, measured, bar, is_met, returns))
    return found


def fastest(entries: dict[str, Entry]) -> Entry | None:
    """The peer with the shortest median run; one with an added compilation cache does not count."""
    peers = [
        entry
        for entry in entries.values()
        if entry.runs and not entry.name.startswith(OURS) and not entry.name.endswith(cold.WARM)
    ]
    return min(peers, key=lambda entry: statistics.median(entry.seconds), default=None)


def show(question: Question, entries: dict[str, Entry]) -> None:
    table = Table(
        "library", "versions, or why not", "gradient steps", "return", "compile s",
        question.unit, "min … max", "runs", "rlscan, × as fast", title=question.title,
    )  # fmt: skip
    for entry in entries.values():
        table.add_row(*_cells(entry, entries[OURS], question.show))
    console = Console(width=WIDTH, highlight=False)
    console.print(table)
    for entry in entries.values():
        about = [entry.about.get("network"), *entry.about.get("notes", [])]
        if entry.runs and any(about):
            console.print(f"{entry.name}: {'; '.join(filter(None, about))}")
    answers = verdicts(question, entries)
    for verdict in answers:
        console.print(_sentence(verdict, question))
    if not answers:
        console.print("nothing to compare: rlscan and a peer have not both run")


def _cells(entry: Entry, ours: Entry, show: Callable[[float], str]) -> list[str]:
    seconds, compile_s = entry.seconds, entry.about.get("compile_s")
    versions = [f"{name} {version}" for name, version in entry.about.get("versions", {}).items()]
    ends = sorted((show(min(seconds)), show(max(seconds))), key=float) if seconds else []
    return [
        entry.name,
        ", ".join(versions + ([entry.reason] if entry.reason else [])),
        str(entry.about.get("gradient_steps", "")),
        _number(_mean(entry.returns), ".1f"),
        _number(compile_s, ".1f"),
        show(statistics.median(seconds)) if seconds else "",
        " … ".join(ends),
        str(len(seconds)),
        "" if entry is ours else str(ratio(entry, ours) or ""),
    ]


def _sentence(verdict: Verdict, question: Question) -> str:
    ours, peers = (_number(r, ".1f") or "unknown" for r in verdict.returns)
    return (
        f"{verdict.ours} over the fastest peer, {verdict.peer}: {verdict.ratio} of its "
        f"{question.quantity}, bar {'≥' if question.is_rate else '≤'} {verdict.bar:g}: "
        f"{'met' if verdict.is_met else 'NOT met'}; return {ours} beside {peers}"
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None
