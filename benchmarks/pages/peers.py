"""Figures of the comparison with other libraries: `python -m benchmarks.peers`."""

import functools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _results
from benchmarks.pages.markdown import MISSING, listed, signed, table

RESULTS = Path(__file__).parent.parent / "peers" / "results"
CONTESTS = ("cartpole-4", "cartpole-1024", "breakout", "pendulum", "seeds-32", "cold-start")
OLDER = ("cartpole-4-xeon", "cartpole-4-all")  # on another machine, and with all peers
LEARNING = ("learn-mlp", "learn-gru")


@functools.cache
def _kept(name: str) -> dict[str, Any]:
    """The figures that are kept under a name, which need not be that of the workload."""
    (figures,) = _results.read(RESULTS)[name]["figures"].values()
    return figures


def _task(name: str) -> str:
    work = _kept(name)["workload"]
    if "env" not in work:
        return f"from the shell to the end of {work['steps']:,} steps of CartPole"
    seeds = f", {work['num_seeds']} seeds" if work["num_seeds"] > 1 else ""
    size = f"N = {work['num_envs']}, T = {work['num_steps']}"
    return f"{work['env']}, {size}, {work['seed_steps']:,} steps{seeds}"


def contests() -> str:
    """rlscan over the fastest peer, in each contest, beside what was to be reached."""
    rows = []
    for name in CONTESTS:
        for verdict in _kept(name)["verdicts"]:
            median, low, high = verdict["ratio"]
            sign = "at most" if name == "cold-start" else "at least"
            returns = listed([signed(r, 1) for r in verdict["returns"]])
            rows.append(
                (
                    f"`{name}`: {_task(name)}",
                    verdict["ours"],
                    verdict["peer"],
                    f"{median:.2f} ({low:.2f} … {high:.2f})",
                    f"{sign} {verdict['bar']:g}, {'met' if verdict['is_met'] else '**missed**'}",
                    returns,
                )
            )
    head = ("task", "ours", "fastest peer", "ours over it (quartiles)", "target", "returns")
    return table(head, rows)


def libraries(*names: str) -> str:
    """All libraries of each contest: how many times as fast rlscan was."""
    rows = [row for name in names for row in _rows_of(name)]
    head = ("task", "library", "versions", "rlscan, × as fast (quartiles)", "return", "runs")
    return table(head, rows)


def _rows_of(name: str) -> Iterator[tuple[str, ...]]:
    for entry in _kept(name)["entries"]:
        runs, about = entry["runs"], entry["about"]
        versions = ", ".join(f"{p} {v}" for p, v in about.get("versions", {}).items())
        faster = entry.get("rlscan_times_faster")
        speed = "{:.2f} ({:.2f} … {:.2f})".format(*faster) if faster else MISSING
        if entry["name"] == "rlscan":
            speed = "1"
        returns = [run["return"] for run in runs if run.get("return") is not None]
        mean = signed(statistics.fmean(returns), 1) if returns else MISSING
        yield f"`{name}`", entry["name"], versions or entry["reason"], speed, mean, f"{len(runs)}"


def learning() -> str:
    """Returns after equal steps: IQM over seeds, with its interval, and the worst seed."""
    rows = []
    for name in LEARNING:
        for score in _kept(name)["scores"]:
            low, high = score["interval"]
            iqm = f"{score['iqm']:.1f} [{low:.1f}, {high:.1f}]"
            rows.append((f"`{name}`: {_task(name)}", score["name"], iqm, f"{score['worst']:.1f}"))
    return table(("task", "library", "IQM [interval]", "worst seed"), rows)
