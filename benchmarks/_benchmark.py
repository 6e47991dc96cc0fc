"""What a benchmark is: a name, what it measures and claims, and a function that yields lines."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks._figures import Comparison, Line


class Settings(NamedTuple):
    """What the command line sets."""

    smoke: bool = False  # a size that only shows that it runs
    repeats: int = 21  # interleaved runs of each contestant
    env: str | None = None  # a name, or module:factory, of the reader's own
    policy: str | None = None  # module:factory


class Result(NamedTuple):
    """What a benchmark measured."""

    setting: str  # what ran, in one line; figures of two settings cannot be compared
    lines: list[Line]


class Benchmark(NamedTuple):
    """One file of the suite."""

    name: str
    measures: str  # one line
    minutes: float  # on two cores, roughly
    run: Callable[[Settings], Result]
    comparisons: tuple[Comparison, ...] = ()
    takes_own: bool = False  # whether it can time the reader's environment and policy
