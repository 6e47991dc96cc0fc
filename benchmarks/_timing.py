"""Timing that can be trusted on a noisy machine: compile apart, contestants interleaved."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax


class Timing(NamedTuple):
    """What one contestant took, in seconds, and what it needs."""

    trace: float  # from Python to a program
    xla: float  # from the program to machine code
    first_call: float  # of the compiled program
    runs: list[float]  # one per repetition, after the first call
    temporary_bytes: int  # what the program needs beside its arguments and results

    @property
    def compile(self) -> float:
        return self.trace + self.xla

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def interleaved(
    contestants: Mapping[str, tuple[Callable, tuple]],
    *,
    repeats: int,
    options: Mapping[str, Mapping[str, str]] = {},
) -> dict[str, Timing]:
    """Times functions in turn, A B C A B C …, so that all of them see the machine's drift.

    **Arguments:**

    - `contestants`: by name, a function and its arguments; it is compiled by `eqx.filter_jit`.
    - `repeats`: how often each runs, after its first call.
    - `options`: of XLA, for contestants that are compiled otherwise than `XLA_FLAGS` says.
    """
    compiled, timings = {}, {}
    for name, (function, args) in contestants.items():
        program, trace, xla = compile_program(function, args, options.get(name))
        first_call = time_call(program, args)
        compiled[name] = program
        timings[name] = Timing(trace, xla, first_call, [], temporary_bytes(program))
    for _ in range(repeats):
        for name, (_, args) in contestants.items():
            timings[name].runs.append(time_call(compiled[name], args))
    return timings


def compile_program(
    function: Callable, args: tuple, options: Mapping[str, str] | None = None
) -> tuple[Any, float, float]:
    """The program, and how long tracing and compiling took."""
    jax.clear_caches()  # else the first contestant traces for the others what they share
    filter_jit: Any = eqx.filter_jit  # takes what `jax.jit` does, which its overloads do not say
    jitted = filter_jit(function, compiler_options=dict(options or {}))
    start = time.perf_counter()
    lowered = jitted.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, traced - start, time.perf_counter() - traced


def time_call(compiled: Any, args: tuple) -> float:
    """Seconds of one call, its results computed."""
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    return time.perf_counter() - start


def temporary_bytes(compiled: Any) -> int:
    """What the program needs beside its arguments and results."""
    return compiled.compiled.memory_analysis().temp_size_in_bytes


def ratio(a: Timing, b: Timing) -> float:
    """How many times faster `a` is than `b`: the median over pairs of runs."""
    return statistics.median(y / x for x, y in zip(a.runs, b.runs, strict=True))


def circumstances() -> dict[str, Any]:
    """What a figure depends on beside what was measured: versions, machine and commit."""
    packages = ("rlscan", "jax", "jaxlib", "equinox", "optax", "gymnax", "distrax")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": _cores(),
        "device": jax.devices()[0].device_kind,
        "flags": os.environ.get("XLA_FLAGS", ""),
        "threads": os.environ.get("NPROC", ""),  # of XLA; empty for one per core
        **_CODE,
    }


def write_json(path: str | None, benchmark: str, settings: dict, figures: Any) -> None:
    """Keeps the figures with their circumstances, where a path was asked for.

    The file is there whole or not at all.
    """
    if path is None:
        return
    content = {"benchmark": benchmark, "settings": settings, **circumstances(), "figures": figures}
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"written to {path}")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit_of(folder: Path) -> str:
    return _git("rev-parse", "--short", "HEAD", folder=folder) or "no checkout"


def _git(*args: str, folder: Path = Path(__file__).parent) -> str:
    try:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True, cwd=folder
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _code() -> dict[str, Any]:
    """Which commit this is, and whether what runs differs from it."""
    paths = (":/rlscan", ":/benchmarks", ":/configs", ":/scripts", ":(top,exclude)**/results/**")
    return {
        "commit": commit_of(Path(__file__).parent),
        "changed": bool(_git("status", "--porcelain", "--", *paths)),
    }


# Looked at when it is imported, as what is committed while it runs is not what runs.
_CODE = _code()
