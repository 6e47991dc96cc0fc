"""The tests that passed and failed, as tables in Markdown."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.randomness import dieharder, nist, results
from benchmarks.randomness.runs import RUNS, Run
from benchmarks.randomness.streams import STREAMS

WEAK_BY_CHANCE = 0.01  # dieharder calls a p-value weak outside of 0.005 to 0.995
MOST_NAMES = 6  # in a row of the table


def write(folder: Path) -> str:
    """Write table.md beside the results, and return it."""
    text = "\n\n".join(
        (
            "Written by `python -m benchmarks.randomness --report`.",
            "## dieharder 3.31.1",
            "*Weak* is a p-value outside of 0.005 to 0.995, which one in a hundred of random "
            "numbers is as well; *failed*, one within 10⁻⁶ of 0 or 1.",
            dieharder_table(folder),
            "## NIST SP 800-22",
            "*Passed* is a test in which as many sequences passed at a level of 0.01 as may, to "
            "three standard deviations, and whose p-values are uniform (p ≥ 0.0001). *By chance* "
            "is how many tests of random numbers are expected to miss that.",
            nist_table(folder),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text + "\n")
    return text


DIEHARDER_COLUMNS = ("p-values", "passed", "weak", "by chance", "failed", "weak and failed ones")
NIST_COLUMNS = ("sequences", "tests", "passed", "failed", "by chance", "failed ones")


def dieharder_table(folder: Path) -> str:
    return _table("dieharder", folder, DIEHARDER_COLUMNS, _dieharder_row)


def nist_table(folder: Path) -> str:
    return _table("nist", folder, NIST_COLUMNS, _nist_row)


def _dieharder_row(run: Run, found: dict[str, Any]) -> Iterable[object]:
    lines = dieharder.lines_of(found)
    passed, weak, failed = (
        [line for line in lines if line.assessment == assessment]
        for assessment in ("PASSED", "WEAK", "FAILED")
    )
    num_left = sum(test.name not in found["tests"] for test in dieharder.tests_of(run))
    yield f"{len(lines)}" + f" ({num_left} tests to run)" * (num_left > 0)
    yield from (len(passed), len(weak), f"{WEAK_BY_CHANCE * len(lines):.1f}", len(failed))
    yield _names(f"{line.test} {line.size} ({line.p_value:.4g})" for line in [*failed, *weak])


def _nist_row(run: Run, found: dict[str, Any]) -> Iterable[object]:
    verdicts = nist.verdicts(found)
    missed = [v for v in verdicts if not v.is_met]
    yield from (found["num_sequences"], len(verdicts), len(verdicts) - len(missed), len(missed))
    yield f"{sum(verdict.missed_by_chance for verdict in verdicts):.1f}"
    yield _names(map(_missed, missed))


def _missed(verdict: nist.Verdict) -> str:
    reasons = []
    if not verdict.meets_proportion:
        reasons.append(f"{verdict.passed} of {verdict.num_sequences} pass")
    if not verdict.meets_uniformity:
        reasons.append(f"p-values uniform with p = {verdict.uniformity:.2g}")
    return f"{verdict.test} ({', '.join(reasons)})"


def _names(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - MOST_NAMES
    return "; ".join(names[:MOST_NAMES]) + f"; and {rest} more" * (rest > 0)


def _table(
    battery: str,
    folder: Path,
    columns: tuple[str, ...],
    row: Callable[[Run, dict[str, Any]], Iterable[object]],
) -> str:
    """A table of the runs with results: stream by stream, the generators below each other."""
    lines = [("stream", "generator", *columns), ("---",) * (len(columns) + 2)]
    runs = [run for run in RUNS.values() if run.battery == battery]
    for run in sorted(runs, key=lambda run: list(STREAMS).index(run.stream)):
        found = results.read(run, folder)
        if found is not None and found["tests"]:
            lines.append((f"`{run.stream}`", run.generator, *map(str, row(run, found))))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
