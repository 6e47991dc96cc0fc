"""The figures of a point, as tables and plots show them, and the knees of a speed."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks._figures import Spread, spread
from benchmarks.growth.points import Point

PROGRAMS = {
    "rollout": "rollout with dropout",
    "rollout_without": "rollout without",
    "update": "PPO update with dropout",
}


class Figures(NamedTuple):
    """The figures measured at a point, in base units."""

    point: Point
    measured: dict[str, Any]  # as it is kept

    def speed(self, program: str) -> Spread:
        """Environment steps per second, all seeds together."""
        return spread([self.point.steps / seconds for seconds in self._seconds(program)])

    def ratio(self) -> float:
        """Speed with dropout over speed without: the median over pairs of runs."""
        pairs = zip(self._seconds("rollout_without"), self._seconds("rollout"), strict=True)
        return statistics.median(without / with_it for without, with_it in pairs)

    def iteration_seconds(self) -> float:
        """The time a rollout takes for one step of all environments of all seeds."""
        return statistics.median(self._seconds("rollout")) / self.point.num_steps

    def by_xla(self, program: str) -> float:
        """Bytes that the compiled program needs: its results and its temporary memory."""
        memory = self.measured[f"{program}_memory"]
        return memory["output_bytes"] + memory["temporary_bytes"]

    def by_system(self, program: str) -> float:
        """Bytes by which a call raised the resident memory of its process; NaN if unknown."""
        peak = self.measured[f"{program}_memory"]["peak_bytes"]
        return math.nan if peak is None else peak

    def _seconds(self, program: str) -> list[float]:
        return self.measured[f"{program}_seconds"]


def knees(sizes: Sequence[float], speeds: Sequence[float]) -> list[float]:
    """The sizes at which the speed passes half of its best, by logarithmic interpolation.

    If n elements take a + b n, that is n = a / b: the fixed cost of a call then equals the cost of
    its elements.

    Source: Hockney & Jesshope, *Parallel Computers*, 1981: their n½.
    """
    half = max(speeds) / 2
    found = []
    for i, (left, right) in enumerate(zip(speeds, speeds[1:], strict=False)):
        if (left < half) != (right < half):
            share = math.log(half / left) / math.log(right / left)
            found.append(sizes[i] * (sizes[i + 1] / sizes[i]) ** share)
    return found
