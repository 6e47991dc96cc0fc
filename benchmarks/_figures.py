"""Figures: the measurements of each contestant, and comparisons of contestants."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks._timing import Timing


class Quantity(NamedTuple):
    """A measured quantity in base units; its name ends in the unit."""

    name: str
    title: str  # heading of its column
    unit: str  # shown in its column
    scale: float  # that unit, in base units
    meaning: str
    more_is_better: bool = False


_ALL = (
    Quantity("steps_per_second", "steps/s", "M", 1e6, "environment steps per second", True),
    Quantity("run_seconds", "run time", "ms", 1e-3, "one call of the compiled program"),
    Quantity("process_seconds", "process time", "s", 1, "a process, from its start to its end"),
    Quantity("equations", "equations", "", 1, "in the jaxpr, inner programs included"),
    Quantity("draws", "draws", "", 1, "equations that make random bits"),
    Quantity("trace_seconds", "trace", "s", 1, "from Python to a program"),
    Quantity("xla_seconds", "XLA", "s", 1, "compiling that program"),
    Quantity("first_call_seconds", "first", "ms", 1e-3, "first call of the compiled program"),
    Quantity("temporary_bytes", "temp", "MB", 1e6, "memory besides arguments and results"),
    Quantity("peak_bytes", "peak", "MB", 1e6, "peak resident memory of the process"),
)
QUANTITIES = {quantity.name: quantity for quantity in _ALL}


class Line(NamedTuple):
    """The measurements of one contestant at one size."""

    name: str
    size: str  # "N = 64"; empty if there is only one size
    meaning: str  # one sentence
    figures: dict[str, list[float]]  # by name in `QUANTITIES`; the first is the one compared

    @property
    def main(self) -> str:
        return next(iter(self.figures))


class Comparison(NamedTuple):
    """The figure of one contestant over that of another."""

    of: str
    over: str
    meaning: str  # one sentence
    at_least: Mapping[str, float] = {}  # the claims, by size


class Ratio(NamedTuple):
    """A comparison at one size."""

    of: str
    over: str
    size: str
    meaning: str
    values: list[float]  # one per pair of runs
    at_least: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the claim; `None` if there is no claim."""
        return None if self.at_least is None else spread(self.values).median >= self.at_least


class Spread(NamedTuple):
    """The median and the quartiles around it."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(lines: Sequence[Line], comparisons: Sequence[Comparison]) -> list[Ratio]:
    """Each comparison at each size, over pairs of runs: the k-th run of one by that of the other.

    **Raises:** `ValueError` for a comparison with a contestant that did not run at any size.
    """
    by_size: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        by_size.setdefault(line.size, {})[line.name] = line.figures[line.main]
    ran = {line.name for line in lines}
    for name in {name for c in comparisons for name in (c.of, c.over)} - ran:
        raise ValueError(f"{name!r} is to be compared, but only {', '.join(ran)} ran")
    return [
        Ratio(c.of, c.over, size, c.meaning, pairs, c.at_least.get(size))
        for size, values in by_size.items()
        for c in comparisons
        if c.of in values and c.over in values
        for pairs in [[x / y for x, y in zip(values[c.of], values[c.over], strict=True)]]
    ]


def figures_of(timing: Timing, *, num_steps: int | None = None) -> dict[str, list[float]]:
    """The figures of a timing: steps per second if a call makes `num_steps`, else seconds."""
    speed = {"run_seconds": timing.runs}
    if num_steps is not None:
        speed = {"steps_per_second": [num_steps / seconds for seconds in timing.runs]}
    return {
        **speed,
        "trace_seconds": [timing.trace],
        "xla_seconds": [timing.xla],
        "first_call_seconds": [timing.first_call],
        "temporary_bytes": [timing.temporary_bytes],
    }


def to_json(setting: str, lines: Sequence[Line], ratios: Sequence[Ratio]) -> dict[str, Any]:
    """The figures as JSON, with their medians and quartiles."""

    def summary(values: list[float]) -> dict[str, Any]:
        low, median, high = (_rounded(value) for value in spread(values))
        return {"median": median, "quartiles": [low, high], "values": list(map(_rounded, values))}

    return {
        "setting": setting,
        "lines": [
            {**line._asdict(), "figures": {k: summary(v) for k, v in line.figures.items()}}
            for line in lines
        ],
        "ratios": [
            {**ratio._asdict(), **summary(ratio.values), "is_met": ratio.is_met} for ratio in ratios
        ],
    }


def _rounded(value: float) -> float:
    """Round to six digits, which is more than is known."""
    return float(f"{value:.6g}")
