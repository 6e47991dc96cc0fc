"""Timing that can be trusted on a noisy machine: compile apart, contestants interleaved."""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax


class Timing(NamedTuple):
    """Seconds of one contestant."""

    compile: float  # tracing included
    runs: list[float]  # one per repetition, after the first call
    temporary_bytes: int  # what the program needs beside its arguments and results

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def interleaved(
    contestants: dict[str, tuple[Callable, tuple]], *, repeats: int
) -> dict[str, Timing]:
    """Times functions in turn, A B C A B C …, so that all of them see the machine's drift.

    **Arguments:**

    - `contestants`: by name, a function and its arguments; it is compiled by `eqx.filter_jit`.
    - `repeats`: how often each runs, after one call that is not counted.
    """
    compiled, seconds = {}, {}
    for name, (function, args) in contestants.items():
        start = time.perf_counter()
        jitted: Any = eqx.filter_jit(function)
        compiled[name] = jitted.lower(*args).compile()
        seconds[name] = time.perf_counter() - start
        jax.block_until_ready(eqx.filter(compiled[name](*args), eqx.is_array))
    runs: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, (_, args) in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(eqx.filter(compiled[name](*args), eqx.is_array))
            runs[name].append(time.perf_counter() - start)
    return {
        name: Timing(seconds[name], runs[name], _temporary_bytes(compiled[name]))
        for name in contestants
    }


def _temporary_bytes(compiled: Any) -> int:
    return compiled.compiled.memory_analysis().temp_size_in_bytes


def ratio(a: Timing, b: Timing) -> float:
    """How many times faster `a` is than `b`: the median over pairs of runs."""
    return statistics.median(y / x for x, y in zip(a.runs, b.runs, strict=True))


def circumstances() -> dict[str, Any]:
    """What a figure depends on beside the code: versions, machine and commit."""
    packages = ("rlscan", "jax", "jaxlib", "equinox", "optax", "gymnax", "distrax")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "device": jax.devices()[0].device_kind,
        "commit": _git("rev-parse", "--short", "HEAD") or "no checkout",
        "changed": bool(_git("status", "--porcelain", "--", ":/rlscan", ":/benchmarks")),
    }


def write_json(path: str | None, benchmark: str, settings: dict, figures: Any) -> None:
    """Keeps the figures with their circumstances, where a path was asked for."""
    if path is None:
        return
    content = {"benchmark": benchmark, "settings": settings, **circumstances(), "figures": figures}
    Path(path).write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path}")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*args: str) -> str:
    try:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
