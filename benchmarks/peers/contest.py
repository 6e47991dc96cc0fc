"""A workload, by all libraries in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.worker import Unable

PATIENCE_SECONDS = 30.0
"""Who takes longer for one run makes no second one: its figure cannot hang on noise."""


@dataclass
class Contestant:
    """What takes part: a name and how to start it."""

    name: str
    start: Callable[[], Any]
    """Gives what has `about`, `run(seed)` and `close()`; or raises `Unable`."""


@dataclass
class Entry:
    """What one contestant did. Its runs are those of the first rounds, in order."""

    name: str
    about: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    """Why it has no figure, or no more of them."""

    @property
    def seconds(self) -> list[float]:
        return [run["seconds"] for run in self.runs]

    @property
    def returns(self) -> list[float]:
        return [run["return"] for run in self.runs if run["return"] is not None]


def contest(
    contestants: Sequence[Contestant], *, repeats: int, patience: float = PATIENCE_SECONDS
) -> dict[str, Entry]:
    """Starts all, one after the other, then lets them run in turn, A B C A B C …, each alone.

    So all of them see the machine's drift. Nothing that a contestant does is an error here.

    **Arguments:**

    - `contestants`: in their order.
    - `repeats`: rounds; each has a seed of its own, the same for all.
    - `patience`: seconds of a run after which a contestant is not asked again.
    """
    entries = {contestant.name: Entry(contestant.name) for contestant in contestants}
    workers: dict[str, Any] = {}
    try:
        for contestant in contestants:
            _start(contestant, entries[contestant.name], workers)
        for seed in range(repeats):
            for name in list(workers):
                _run(name, entries[name], workers, seed, patience)
    finally:
        for worker in workers.values():
            worker.close()
    return entries


def _start(contestant: Contestant, entry: Entry, workers: dict[str, Any]) -> None:
    try:
        workers[contestant.name] = worker = contestant.start()
        entry.about = worker.about
    except (Unable, OSError) as reason:
        entry.reason = str(reason)


def _run(name: str, entry: Entry, workers: dict[str, Any], seed: int, patience: float) -> None:
    try:
        entry.runs.append(workers[name].run(seed))
    except Unable as reason:
        entry.reason = str(reason)
    if entry.reason or entry.runs[-1]["seconds"] > patience:
        workers.pop(name).close()
