"""Figures of the suite: `python -m benchmarks`."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._figures import QUANTITIES
from benchmarks._table import number
from benchmarks.pages.markdown import MISSING, table

RESULTS = Path(__file__).parent.parent / "results"
SIZES = ("N = 4", "N = 64", "N = 1024")
SPEED = {  # by row: the benchmark, and the two contestants that are compared
    "rollout with dropout, over the hand-written loop with dropout": (
        "rollout", "rlscan, dropout", "plain, dropout",
    ),
    "the same, values included": ("rollout", "rlscan, dropout, values", "plain, dropout"),
    "the same by threefry, without values": (
        "rollout", "rlscan, dropout, threefry", "plain, dropout",
    ),
    "rollout without dropout, over the hand-written loop without": (
        "rollout", "rlscan, no dropout", "plain, no dropout",
    ),
    "that one, values included": ("rollout", "no dropout, values", "plain, no dropout"),
    "rollout with dropout, over rollout without": (
        "rollout", "rlscan, dropout", "rlscan, no dropout",
    ),
    "a whole PPO update with dropout, over one without": ("training", "dropout", "no dropout"),
    "rollout on two devices of the host, over one": (
        "devices", "rollout, two devices", "rollout, one device",
    ),
    "a whole PPO update on two devices, over one (8 minibatches)": (
        "devices", "update, two devices", "update, one device",
    ),
}  # fmt: skip


@functools.cache
def _figures() -> dict[str, Any]:
    return json.loads((RESULTS / "suite.json").read_text())["figures"]


def _ratio(benchmark: str, of: str, over: str, size: str) -> dict[str, Any] | None:
    """A ratio at a size, which may be named with its T or without."""
    for found in _figures()[benchmark]["ratios"]:
        if (found["of"], found["over"]) == (of, over) and size in (
            found["size"], found["size"].partition(",")[0],
        ):  # fmt: skip
            return found
    return None


def ratio(benchmark: str, of: str, over: str, size: str = "") -> str:
    """The figure of one contestant over that of another: the median over pairs of runs."""
    found = _ratio(benchmark, of, over, size)
    if found is None:
        raise LookupError(f"suite.json has no ratio of {of!r} over {over!r} at {size!r}")
    return f"{found['median']:.2f}"


def _lines(benchmark: str, size: str) -> Iterator[tuple[str, dict[str, float]]]:
    """The contestants at a size, and the medians of what was measured, in the tables' units."""
    for line in _figures()[benchmark]["lines"]:
        if line["size"] == size:
            medians = {
                name: f["median"] / QUANTITIES[name].scale for name, f in line["figures"].items()
            }
            yield line["name"], medians


def setting(benchmark: str) -> str:
    """What a benchmark ran."""
    return _figures()[benchmark]["setting"]


def speed() -> str:
    """Steps per second with dropout, over those without and over a loop written by hand."""

    def row(name: str) -> Iterator[str]:
        yield name
        for size in SIZES:
            found = _ratio(*SPEED[name], size)
            yield f"{found['median']:.2f}" if found else MISSING

    return table(("steps per second, as a ratio", *SIZES), map(list, map(row, SPEED)))


def claims() -> str:
    """Every claim of the suite, beside what was measured."""
    rows = [
        (
            f"{found['of']} / {found['over']}",
            f"`{name}`, {found['size']}",
            f"{found['at_least']:g}",
            _with_quartiles(found),
            "met" if found["is_met"] else "**missed**",
        )
        for name, result in _figures().items()
        for found in result["ratios"]
        if found["at_least"] is not None
    ]
    return table(("steps per second of", "benchmark", "at least", "median (quartiles)", ""), rows)


def levers() -> str:
    """The gain of each optimisation that costs clarity, and the seconds of XLA with and without."""
    rows = []
    for found in _figures()["levers"]["ratios"]:
        lines = dict(_lines("levers", found["size"]))
        seconds = (lines[name]["xla_seconds"] for name in (found["of"], found["over"]))
        meaning = found["meaning"].partition(": ")[2]
        rows.append((meaning, found["size"], _with_quartiles(found), *map(number, seconds)))
    rows.sort(key=lambda row: row[0])
    head = (
        "without the optimisation",
        "program",
        "gain in steps/s (quartiles)",
        "XLA, s",
        "XLA without, s",
    )
    return table(head, rows)


def switches() -> str:
    """Ways to switch dropout off: run time, and what the program holds."""
    rows = []
    for size in ("N = 64", "N = 1024"):
        for name, medians in _lines("switches", size):
            found = _ratio("switches", name, "inference mode", size)
            over = f"{found['median']:.2f}" if found else MISSING
            numbers = (
                number(medians[q]) for q in ("run_seconds", "equations", "draws", "xla_seconds")
            )
            rows.append((name, size, over, *numbers))
    head = (
        "dropout",
        "",
        "run time over inference mode",
        "run time, ms",
        "equations",
        "draws of bits",
        "XLA, s",
    )
    return table(head, rows)


def threads() -> str:
    """One thread over one for each core."""
    found = [r for r in _figures()["threads"]["ratios"]]
    rows = [(r["of"], r["size"], _with_quartiles(r)) for r in sorted(found, key=lambda r: r["of"])]
    return table(("", "", "steps/s over those with a thread for each core (quartiles)"), rows)


def startup() -> str:
    """Seconds and memory of a process, from its start to its end."""
    rows = [
        (f"`{name}`", number(medians["process_seconds"]), number(medians["peak_bytes"]))
        for name, medians in _lines("startup", "")
    ]
    return table(("process", "seconds", "peak memory, MB"), rows)


def long_run(part: int) -> str:
    """Resident memory in a tenth of a long run, in MB."""
    return f"{_long_run()['figures']['resident_bytes'][part] / 1e6:.0f}"


def long_run_steps() -> str:
    return f"{_long_run()['settings']['total_steps']:,}"


@functools.cache
def _long_run() -> dict[str, Any]:
    return json.loads((RESULTS / "long_run.json").read_text())


def made_by() -> str:
    """The machine and versions of the suite's figures."""
    content = json.loads((RESULTS / "suite.json").read_text())
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"{versions}; commit {content['commit']}; {content['cpu']}, {content['cores']} cores"


def _with_quartiles(found: dict[str, Any]) -> str:
    low, high = found["quartiles"]
    return f"{found['median']:.2f} ({low:.2f} … {high:.2f})"
