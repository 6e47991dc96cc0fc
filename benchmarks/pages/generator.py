"""Figures of the tests of random generators: `python -m benchmarks.randomness`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.randomness import dieharder as _dieharder, nist as _nist, report, results
from benchmarks.randomness.runs import RUNS

RESULTS = Path(__file__).parent.parent / "randomness" / "results"


def dieharder() -> str:
    return report.dieharder_table(RESULTS)


def nist() -> str:
    return report.nist_table(RESULTS)


def p_values(assessment: str, *streams: str) -> str:
    """The number of p-values of dieharder for `mix32` that were assessed so, on some streams."""
    found = [line for line in _lines(streams) if assessment in ("ANY", line.assessment)]
    return str(len(found))


def weak_by_chance(*streams: str) -> str:
    return f"{report.WEAK_BY_CHANCE * sum(1 for _ in _lines(streams)):.1f}"


def num_sequences(stream: str) -> str:
    """The number of sequences of 10⁶ bits of a stream of `mix32`'s that NIST's tests read."""
    return f"{_runs('nist', (stream,))[0]['num_sequences']:,}"


def nist_tests(*streams: str) -> str:
    """The number of NIST's tests of `mix32`."""
    return str(len(_verdicts(streams)))


def nist_missed(*streams: str) -> str:
    return str(sum(not verdict.is_met for verdict in _verdicts(streams)))


def nist_by_chance(*streams: str) -> str:
    """How many of these tests random numbers are expected to miss."""
    return f"{sum(verdict.missed_by_chance for verdict in _verdicts(streams)):.1f}"


def _lines(streams: tuple[str, ...]) -> Iterator[Any]:
    for found in _runs("dieharder", streams):
        yield from _dieharder.lines_of(found)


def _verdicts(streams: tuple[str, ...]) -> list[_nist.Verdict]:
    return [verdict for found in _runs("nist", streams) for verdict in _nist.verdicts(found)]


@functools.cache
def _runs(battery: str, streams: tuple[str, ...]) -> list[dict[str, Any]]:
    """The kept runs of `mix32`; of all streams if none is named."""
    runs = [run for run in RUNS.values() if (run.battery, run.generator) == (battery, "mix32")]
    found = [results.read(run, RESULTS) for run in runs if not streams or run.stream in streams]
    return [content for content in found if content is not None]
