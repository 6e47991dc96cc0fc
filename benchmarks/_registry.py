"""Which benchmarks there are, and which studies beside them, with command lines of their own."""

import ast
from pathlib import Path

from benchmarks import devices, levers, rollout, startup, switches, threads, training
from benchmarks._benchmark import Benchmark

# A new one: its file, with a `BENCHMARK`, and its name in this line. The order is that of running.
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (rollout, training, threads, devices, levers, switches, startup)
}


def studies() -> dict[str, str]:
    """What takes hours or needs options: by name, the first line of what it says of itself."""
    folder = Path(__file__).parent
    files = {file.parent.name: file for file in sorted(folder.glob("*/__main__.py"))}
    docs = {name: ast.get_docstring(ast.parse(file.read_text())) for name, file in files.items()}
    return {name: (doc or "").partition("\n")[0] for name, doc in docs.items()}
