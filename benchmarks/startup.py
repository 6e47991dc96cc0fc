"""Time and memory of imports and of a short training run, from the shell.

Every run is a new process, in turn with the others. One run of each is not counted, so that files
are in the system's cache. `warm` finds its compiled programs in JAX's persistent cache
(`JAX_COMPILATION_CACHE_DIR`), `cold` compiles them.
"""

import math
import tempfile
from pathlib import Path

from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line
from benchmarks._processes import Process, run_python

TRAIN = """
import runpy, sys
sys.argv[:] = ["train.py", "--config", "configs/cartpole.yaml", *{arguments}]
runpy.run_path("scripts/train.py", run_name="__main__")
"""

MEANINGS = {
    "python": "a Python that does nothing",
    "import jax": "a Python that imports JAX",
    "import gymnax": "gymnax, which imports JAX",
    "import rlscan": "rlscan; gymnax comes with the first environment",
    "rlscan.make": "rlscan, and then an environment",
    "train.py, cold": "scripts/train.py, every program compiled",
    "train.py, warm": "the same with JAX's compilation cache filled",
}

COMPARISONS = (
    Comparison("import rlscan", "import jax", "what rlscan adds to JAX's import"),
    Comparison("train.py, warm", "train.py, cold", "what a compilation cache saves"),
)


def run(settings: Settings) -> Result:
    num_runs = 1 if settings.smoke else math.ceil(settings.repeats / 5)  # they take seconds
    total_steps = 2048 if settings.smoke else 20_480
    runs: dict[str, list[Process]] = {name: [] for name in MEANINGS}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_runs + 1):
            for name, (code, environ) in programs(Path(folder), i, total_steps).items():
                runs[name].append(run_python(code, environ))
    lines = [
        Line(
            name,
            "",
            MEANINGS[name],
            {
                "process_seconds": [process.seconds for process in processes[1:]],
                "peak_bytes": [process.peak_bytes for process in processes[1:]],
            },
        )
        for name, processes in runs.items()
    ]
    return Result(f"fresh processes; train.py makes {total_steps:,} steps of CartPole-v1", lines)


def programs(folder: Path, i: int, total_steps: int) -> dict[str, tuple[str, dict[str, str]]]:
    """The code of each process, and its environment variables, in the i-th round."""

    def train(name: str, **environ: str) -> tuple[str, dict[str, str]]:
        output = str(folder / f"{name}-{i}")
        arguments = ["--total-steps", str(total_steps), "--output", output]
        return TRAIN.format(arguments=arguments), environ

    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {
        "python": ("", {}),
        "import jax": ("import jax", {}),
        "import gymnax": ("import gymnax", {}),
        "import rlscan": ("import rlscan", {}),
        "rlscan.make": ("import rlscan; rlscan.make('CartPole-v1')", {}),
        "train.py, cold": train("cold", JAX_ENABLE_COMPILATION_CACHE="false"),
        "train.py, warm": train("warm", **cache),
    }


BENCHMARK = Benchmark(
    name="startup",
    measures="import times, a short training run from the shell, and their peak memory",
    minutes=2,
    run=run,
    comparisons=COMPARISONS,
)
