"""Figures of the returns that configs reach: `python -m benchmarks.learning`."""

from pathlib import Path
from typing import Any

from benchmarks import _results
from benchmarks.learning import report

RESULTS = Path(__file__).parent.parent / "learning" / "results"


def table() -> str:
    """A row for each config."""
    return "\n".join(report.rows(_kept()))


def num_runs() -> str:
    return str(sum(len(found["figures"]["seeds"]) for found in _kept().values()))


def largest_error() -> str:
    """The largest absolute log ratio before the first gradient step of any update of any run."""
    return f"{max(found['figures']['audit_log_ratio'] for found in _kept().values()):.1e}"


def largest_clip_fraction() -> str:
    return f"{max(found['figures']['audit_clip_fraction'] for found in _kept().values()):g}"


def made_by() -> str:
    """A line for each combination of versions, commit and processor."""
    return "\n".join(f"- {line}" for line in sorted({report.made_by(f) for f in _kept().values()}))


def _kept() -> dict[str, Any]:
    return _results.read(RESULTS)
