"""Figures of how speed and memory grow: `python -m benchmarks.growth`."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.growth import report
from benchmarks.growth.figures import PROGRAMS, Figures
from benchmarks.growth.points import AXES, Point

RESULTS = Path(__file__).parent.parent / "growth" / "results"
POINTS = list(dict.fromkeys(point for points in AXES.values() for point in points))


def axis(name: str) -> str:
    """The table of an axis, and the sizes at which speeds pass half of their best."""
    found = list(_found(AXES[name]).values())
    lines = [report.knee_line(name, program, found) for program in PROGRAMS]
    return "\n".join([report.table(name, found), "", *lines])


def size_of_transitions() -> str:
    """The measured bytes of a transition, beside those that the formula says."""
    return "\n".join(report.bytes_lines(list(_found(POINTS).values())))


def made_by() -> str:
    """A line for each combination of versions, commit and processor."""
    return "\n".join(f"- {line}" for line in report.circumstances(_found(POINTS), RESULTS))


def _found(points: Iterable[Point]) -> dict[Point, Figures]:
    kept = {point: point.read(RESULTS) for point in points}
    return {point: Figures(point, found["figures"]) for point, found in kept.items() if found}
