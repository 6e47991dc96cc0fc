"""Timing on a noisy machine: compiling is timed apart, and contestants are interleaved."""

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

from rlscan._core.files import write_whole


class Timing(NamedTuple):
    """The seconds that one contestant took, and the memory that it needs."""

    trace: float  # from Python to a program
    xla: float  # from the program to machine code
    first_call: float  # of the compiled program
    runs: list[float]  # one per repetition, after the first call
    temporary_bytes: float  # needed besides arguments and results; NaN if unknown

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
    """Time functions in turn, A B C A B C …, so that the machine's drift affects all of them.

    **Arguments:**

    - `contestants`: by name, a function and its arguments; it is compiled by `eqx.filter_jit`.
    - `repeats`: the number of runs of each, after its first call.
    - `options`: XLA's options for contestants that `XLA_FLAGS` does not describe.
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
    """Compile a function: the program, the seconds of tracing, and those of XLA."""
    jax.clear_caches()  # otherwise the first contestant traces the code that the others share
    filter_jit: Any = eqx.filter_jit  # its overloads omit the arguments of `jax.jit`
    jitted = filter_jit(function, compiler_options=dict(options or {}))
    start = time.perf_counter()
    lowered = jitted.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, traced - start, time.perf_counter() - traced


def time_call(compiled: Any, args: tuple) -> float:
    """The seconds of one call, until its results are computed."""
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    return time.perf_counter() - start


def temporary_bytes(compiled: Any) -> int:
    """The memory that a program needs besides its arguments and results."""
    return compiled.compiled.memory_analysis().temp_size_in_bytes


def ratio(a: Timing, b: Timing) -> float:
    """The speed of `a` over that of `b`: the median over pairs of runs."""
    return statistics.median(y / x for x, y in zip(a.runs, b.runs, strict=True))


def circumstances() -> dict[str, Any]:
    """Everything that a figure depends on besides the code measured: versions, machine, commit."""
    packages = ("rlscan", "jax", "jaxlib", "equinox", "optax", "gymnax", "distrax")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": _cores(),
        "device": jax.devices()[0].device_kind,
        "flags": os.environ.get("XLA_FLAGS", ""),
        "threads": os.environ.get("NPROC", ""),  # XLA's; empty for one per core
        **_CODE,
    }


def record(benchmark: str, settings: dict[str, Any], figures: Any) -> dict[str, Any]:
    """Figures with the circumstances that they were measured in, as files keep them."""
    return {"benchmark": benchmark, "settings": settings, **circumstances(), "figures": figures}


def write_json(path: str | None, content: Any) -> None:
    """Write a file atomically, if a path was asked for."""
    if path is not None:
        write_whole(Path(path), (json.dumps(content, indent=2) + "\n").encode())
        print(f"written to {path}")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """The cores that this process may use, if the system tells."""
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
    """The commit, and whether the code that runs differs from it."""
    paths = (":/rlscan", ":/benchmarks", ":/configs", ":/scripts", ":(top,exclude)**/results/**")
    return {
        "commit": commit_of(Path(__file__).parent),
        "changed": bool(_git("status", "--porcelain", "--", *paths)),
    }


# Read at import, because a commit that is made during a run is not the code that runs.
_CODE = _code()
