"""`Benchmark`: a name, what it measures and claims, and a function that returns lines."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks._figures import Comparison, Line


class Settings(NamedTuple):
    """The settings from the command line."""

    smoke: bool = False  # a tiny size, to see that it runs
    repeats: int = 21  # interleaved runs of each contestant
    env: str | None = None  # the reader's own: a name, or module:factory
    policy: str | None = None  # module:factory


class Result(NamedTuple):
    """The figures of a benchmark."""

    setting: str  # one line; figures of different settings cannot be compared
    lines: list[Line]


class Benchmark(NamedTuple):
    """One file of the suite."""

    name: str
    measures: str  # one line
    minutes: float  # on two cores, roughly
    run: Callable[[Settings], Result]
    comparisons: tuple[Comparison, ...] = ()
    takes_own: bool = False  # whether it can time the reader's environment and policy
