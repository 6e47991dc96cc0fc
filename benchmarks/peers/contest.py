"""A contest: all libraries run a workload in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.worker import Unable

PATIENCE_SECONDS = 30.0
"""A contestant that takes longer for one run makes no second one: noise matters little."""


@dataclass
class Contestant:
    """A contestant: a name, and a way to start it."""

    name: str
    start: Callable[[], Any]
    """Returns an object with `about`, `run(seed)` and `close()`, or raises `Unable`."""


@dataclass
class Entry:
    """The runs of one contestant, in the order of the rounds."""

    name: str
    about: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    """The reason why it has no runs, or no more runs."""

    @property
    def seconds(self) -> list[float]:
        return [run["seconds"] for run in self.runs]

    @property
    def returns(self) -> list[float]:
        return [run["return"] for run in self.runs if run["return"] is not None]


def contest(
    contestants: Sequence[Contestant], *, repeats: int, patience: float = PATIENCE_SECONDS
) -> dict[str, Entry]:
    """Start all contestants, then let them run in turn, A B C A B C …, one at a time.

    So the machine's drift affects all of them. A contestant that fails is not an error here.

    **Arguments:**

    - `contestants`: in the order in which they run.
    - `repeats`: the number of rounds; each has a different seed, the same for all.
    - `patience`: a contestant whose run takes more seconds makes no further one.
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
