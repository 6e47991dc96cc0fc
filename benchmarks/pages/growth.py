"""Figures of how speed and memory grow: `python -m benchmarks.growth`."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth import report
from benchmarks.growth.figures import PROGRAMS, Figures
from benchmarks.growth.points import AXES, Point

RESULTS = Path(__file__).parent.parent / "growth" / "results"


def axis(name: str) -> str:
    """The table of an axis, and the sizes at which speeds pass half of their best."""
    found = _found(AXES[name])
    lines = [report.knee_line(name, program, found) for program in PROGRAMS]
    return "\n".join([report.table(name, found), "", *lines])


def size_of_transitions() -> str:
    """The measured bytes of a transition, beside those that the formula says."""
    return "\n".join(
        report.bytes_lines(_found(dict.fromkeys(p for ps in AXES.values() for p in ps)))
    )


def made_by() -> str:
    points = dict.fromkeys(point for points in AXES.values() for point in points)
    return "\n".join(f"- {line}" for line in report.circumstances(points, RESULTS))


def iteration(**size: float) -> str:
    """Microseconds that a rollout takes for one step of all environments."""
    return report.number(1e6 * _at(**size).iteration_seconds())


def ratio(**size: float) -> str:
    """Speed with dropout over speed without."""
    return f"{_at(**size).ratio():.2f}"


def megabytes(program: str, **size: float) -> str:
    """What a program needs by XLA's account: its results and its temporary memory."""
    return report.number(_at(**size).by_xla(program) / 1e6)


def _at(**size: float) -> Figures:
    (found,) = _found([Point(**size)])  # type: ignore[arg-type]
    return found


def _found(points: Sequence[Point] | dict[Point, None]) -> list[Figures]:
    kept = {point: point.read(RESULTS) for point in points}
    return [Figures(point, content["figures"]) for point, content in kept.items() if content]
